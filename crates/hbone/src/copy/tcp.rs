//! TCP connections, and copying between two of them.

use std::borrow::Borrow;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::buffer::GrowingBuffer;
use super::ends::{LAST_WORDS, Meter, failure, gone};
use crate::CopyError;
use crate::memory::Borrower;

/// Copies between two TCP connections (forward is what is read from the first) until both directions have ended. Dropping the
/// future before resets both. Each direction holds 16 KiB at most, or 256 KiB while `memory` is lent for it.
///
/// # Errors
/// The first failure; both connections are reset then, each once what the other one said before is passed on to it.
pub async fn copy_tcp(
    one: TcpStream,
    other: impl Borrow<TcpStream>,
    memory: &Borrower,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let (mut one, mut other) = (Guarded::new(one), Guarded::new(other));
    let result = {
        let (first, second) = (one.socket(), other.socket());
        let (first_failed, second_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut forward = pin!(tcp_to_tcp(first, second, memory, &first_failed, |n| meter.forward(n)));
        let mut backward = pin!(tcp_to_tcp(second, first, memory, &second_failed, |n| meter.backward(n)));
        let (mut first_gone, mut second_gone) = (pin!(gone(first)), pin!(gone(second)));
        let (mut forward_ended, mut backward_ended) = (false, false);
        let failed = loop {
            tokio::select! {
                biased;
                result = &mut forward, if !forward_ended => match result {
                    Ok(()) => forward_ended = true,
                    Err(failed) => {
                        forward_ended = true;
                        break Some(failed);
                    }
                },
                result = &mut backward, if !backward_ended => match result {
                    Ok(()) => backward_ended = true,
                    Err(failed) => {
                        backward_ended = true;
                        break Some(failed.seen_from_the_other_side());
                    }
                },
                () = &mut first_gone => break Some(Failed::Reading(failure(first))),
                () = &mut second_gone => break Some(Failed::Writing(failure(second))),
            }
            if forward_ended && backward_ended {
                break None;
            }
        };
        // What the failed one said before may still wait to be read.
        match failed {
            None => Ok(()),
            Some(Failed::Reading(error)) => {
                first_failed.store(true, Ordering::Relaxed);
                if !forward_ended {
                    let _ = timeout(LAST_WORDS, forward).await;
                }
                Err(CopyError::Tcp(error))
            }
            Some(Failed::Writing(error)) => {
                second_failed.store(true, Ordering::Relaxed);
                if !backward_ended {
                    let _ = timeout(LAST_WORDS, backward).await;
                }
                Err(CopyError::OtherTcp(error))
            }
        }
    };
    if result.is_ok() {
        one.done();
        other.done();
    } else {
        tokio::join!(one.sent(), other.sent());
    }
    result
}

/// Which end of a direction failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Failed {
    fn seen_from_the_other_side(self) -> Self {
        match self {
            Self::Reading(error) => Self::Writing(error),
            Self::Writing(error) => Self::Reading(error),
        }
    }
}

async fn tcp_to_tcp(
    from: &TcpStream,
    to: &TcpStream,
    memory: &Borrower,
    failed: &AtomicBool,
    count: impl Fn(u64),
) -> Result<(), Failed> {
    let mut buffer = GrowingBuffer::of(memory.clone());
    loop {
        std::future::poll_fn(|cx| {
            let ready = from.poll_read_ready(cx);
            if ready.is_pending() {
                buffer.idle();
            }
            ready
        })
        .await
        .map_err(Failed::Reading)?;
        let n = match from.try_read_buf(buffer.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read.map_err(Failed::Reading)?,
        };
        if n == 0 {
            // The kernel tells the error once, and after it only an end.
            if failed.load(Ordering::Relaxed) {
                return Err(Failed::Reading(failure(from)));
            }
            return shutdown(to).map_err(Failed::Writing);
        }
        let mut data = buffer.take(n);
        while data.has_remaining() {
            let written = std::future::poll_fn(|cx| poll_write(to, cx, &data)).await;
            match written.map_err(Failed::Writing)? {
                0 => return Err(Failed::Writing(io::ErrorKind::WriteZero.into())),
                n => data.advance(n),
            }
        }
        count(n as u64);
    }
}

pub(super) fn poll_write(tcp: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        match tcp.try_write(data) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

pub(super) fn shutdown(tcp: &TcpStream) -> io::Result<()> {
    match SockRef::from(tcp).shutdown(Shutdown::Write) {
        // The peer is gone already; it has all that it wanted.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

/// Lets the peer see a reset instead of an end when the socket is closed before all was said.
pub(super) struct Guarded<S: Borrow<TcpStream>> {
    socket: S,
    done: bool,
}

impl<S: Borrow<TcpStream>> Guarded<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, done: false }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        self.socket.borrow()
    }

    /// All was said: the socket is closed without a reset.
    pub(super) fn done(&mut self) {
        self.done = true;
    }

    /// Resolves when the kernel has sent what was written, or the peer does not take it in time: a reset forgets what is not sent.
    pub(super) async fn sent(&self) {
        let all_sent = async {
            // From now on the socket is writable when nothing waits to be sent.
            let socket = self.socket();
            SockRef::from(socket).set_tcp_notsent_lowat(1)?;
            socket
                .async_io(Interest::WRITABLE, || {
                    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
                    match poll(&mut fds, Some(&Timespec::default()))? {
                        0 => Err(io::ErrorKind::WouldBlock.into()),
                        _ => Ok(()),
                    }
                })
                .await
        };
        if let Ok(Err(error)) = timeout(LAST_WORDS, all_sent).await {
            tracing::debug!(%error, "waiting for what was written");
        }
    }
}

impl<S: Borrow<TcpStream>> Drop for Guarded<S> {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.socket.borrow().set_zero_linger()
        {
            tracing::debug!(%error, "SO_LINGER");
        }
    }
}
