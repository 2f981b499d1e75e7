//! TCP connections, and copying between two of them.

use std::borrow::Borrow;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::buffer::GrowingBuffer;
use super::ends::{LAST_WORDS, Meter, failure, gone};
use crate::CopyError;
use crate::memory::{Borrower, Loan};

/// So much is kept of what one side says before the other one has said anything.
const MOST_UNANSWERED: usize = 64 << 10;
/// So much of it without borrowing memory: a request, or a greeting.
const UNANSWERED_BY_RIGHT: usize = 4 << 10;

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
    join(&one, other.borrow(), memory, &Unanswered::nothing(), meter).await
}

/// As [`copy_tcp`], where the second connection may be reset before it has said anything: then the first one is given back with what was
/// read from it, up to 64 KiB and within the time `keep`. That is held besides: 4 KiB by right, more while `memory` is lent for it.
///
/// # Errors
/// The first failure, unless it is such a reset.
pub async fn copy_tcp_unless_refused(
    one: TcpStream,
    other: impl Borrow<TcpStream>,
    memory: &Borrower,
    keep: Duration,
    meter: &impl Meter,
) -> Result<Option<RefusedTcp>, CopyError> {
    let unanswered = Unanswered::within(keep, memory.clone());
    match join(&one, other.borrow(), memory, &unanswered, meter).await {
        Ok(()) => Ok(None),
        Err(CopyError::OtherTcp(error)) => match unanswered.said.into_inner() {
            Some(Said { bytes, loan }) => Ok(Some(RefusedTcp {
                tcp: one,
                said: bytes.into(),
                error,
                _loan: loan,
            })),
            None => Err(CopyError::OtherTcp(error)),
        },
        Err(error) => Err(error),
    }
}

/// A connection whose other side was reset before it had said anything.
#[derive(Debug)]
pub struct RefusedTcp {
    /// The connection: it is open, unless its client has gone meanwhile.
    pub tcp: TcpStream,
    /// All that was read from it.
    pub said: Bytes,
    /// How the other side failed.
    pub error: io::Error,
    _loan: Option<Loan>,
}

/// What one side has said and the other one has not answered: it can be said once more to somebody else.
struct Unanswered {
    /// `None` where it is not kept.
    said: Mutex<Option<Said>>,
    keep: Option<(Duration, Borrower)>,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    loan: Option<Loan>,
}

impl Unanswered {
    fn nothing() -> Self {
        Self {
            said: Mutex::new(None),
            keep: None,
        }
    }

    fn within(keep: Duration, memory: Borrower) -> Self {
        Self {
            said: Mutex::new(Some(Said::default())),
            keep: Some((keep, memory)),
        }
    }

    fn say(&self, data: &[u8]) {
        let mut said = self.said.lock();
        if let Some(kept) = said.as_mut()
            && !self.append(kept, data)
        {
            *said = None;
        }
    }

    /// Whether there was room.
    fn append(&self, said: &mut Said, data: &[u8]) -> bool {
        let length = said.bytes.len() + data.len();
        if length > MOST_UNANSWERED {
            return false;
        }
        if length > UNANSWERED_BY_RIGHT && said.loan.is_none() {
            let memory = self.keep.as_ref().map(|(_, memory)| memory);
            said.loan = memory.and_then(|memory| memory.borrow(MOST_UNANSWERED));
            if said.loan.is_none() {
                return false;
            }
        }
        // Never beyond the loan, and not anew for each byte.
        let most = match said.loan {
            Some(_) => MOST_UNANSWERED,
            None => UNANSWERED_BY_RIGHT,
        };
        if said.bytes.is_empty() {
            said.bytes.reserve_exact(data.len());
        } else if length > said.bytes.capacity() {
            said.bytes.reserve_exact(most - said.bytes.len());
        }
        said.bytes.extend_from_slice(data);
        true
    }

    fn forget(&self) {
        *self.said.lock() = None;
    }

    fn is_kept(&self) -> bool {
        self.said.lock().is_some()
    }

    async fn too_long(&self) {
        match &self.keep {
            Some((keep, _)) => tokio::time::sleep(*keep).await,
            None => std::future::pending().await,
        }
    }
}

async fn join(
    one: &TcpStream,
    other: &TcpStream,
    memory: &Borrower,
    unanswered: &Unanswered,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let (mut one, mut other) = (Guarded::new(one), Guarded::new(other));
    let result = {
        let (first, second) = (one.socket(), other.socket());
        let (first_failed, second_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let there = Passing {
            failed: &first_failed,
            read: |data: &[u8]| unanswered.say(data),
            count: |n| meter.forward(n),
        };
        let back = Passing {
            failed: &second_failed,
            // The end is an answer, too.
            read: |_: &[u8]| unanswered.forget(),
            count: |n| meter.backward(n),
        };
        let mut forward = pin!(tcp_to_tcp(first, second, memory, there));
        let mut backward = pin!(tcp_to_tcp(second, first, memory, back));
        let (mut first_gone, mut second_gone) = (pin!(gone(first)), pin!(gone(second)));
        let mut too_long = pin!(unanswered.too_long());
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
                () = &mut too_long, if unanswered.is_kept() => unanswered.forget(),
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
                if !is_reset(&error) {
                    unanswered.forget();
                }
                Err(CopyError::OtherTcp(error))
            }
        }
    };
    match &result {
        Ok(()) => {
            one.done();
            other.done();
        }
        // The first one goes on.
        Err(CopyError::OtherTcp(_)) if unanswered.is_kept() => one.done(),
        Err(_) => {
            tokio::join!(one.sent(), other.sent());
        }
    }
    result
}

/// Writing to a connection that was reset before is a broken pipe.
fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
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

/// What goes with one direction.
struct Passing<'a, R, C> {
    /// Where it is read from has failed.
    failed: &'a AtomicBool,
    /// Told of what was read; of the end as of nothing.
    read: R,
    /// Told how much was passed on.
    count: C,
}

async fn tcp_to_tcp<R: Fn(&[u8]), C: Fn(u64)>(
    from: &TcpStream,
    to: &TcpStream,
    memory: &Borrower,
    passing: Passing<'_, R, C>,
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
            if passing.failed.load(Ordering::Relaxed) {
                return Err(Failed::Reading(failure(from)));
            }
            (passing.read)(&[]);
            return shutdown(to).map_err(Failed::Writing);
        }
        let mut data = buffer.take(n);
        (passing.read)(&data);
        while data.has_remaining() {
            let written = std::future::poll_fn(|cx| poll_write(to, cx, &data)).await;
            match written.map_err(Failed::Writing)? {
                0 => return Err(Failed::Writing(io::ErrorKind::WriteZero.into())),
                n => data.advance(n),
            }
        }
        (passing.count)(n as u64);
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
