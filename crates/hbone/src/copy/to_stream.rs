//! From a TCP connection to a stream.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use h2::Reason;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffer::GrowingBuffer;
use super::ends::{Ends, failure};
use crate::outgoing::Sender;
use crate::{CopyError, Http2Error};

/// Sends what was `said` before, then what is read.
pub(super) async fn tcp_to_stream(
    mut said: Bytes,
    tcp: &TcpStream,
    send: &mut Sender,
    ends: &Ends,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    while !said.is_empty() {
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx, said.len()));
        let room = match room.await {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Err(reset(send, error).await),
            None => return Err(reset(send, Reason::CANCEL.into()).await),
        };
        if let Err(error) = send.send(said.split_to(room)) {
            return Err(reset(send, error).await);
        }
        count(room as u64);
    }
    let mut buffer = GrowingBuffer::new();
    loop {
        // No buffer is held while nothing is to be read. A reset by the peer shows on the receiving half while that is open.
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ready) = tcp.poll_read_ready(cx) {
                return Poll::Ready(ready.map_err(CopyError::Tcp));
            }
            if ends.received_all.load(Ordering::Relaxed) {
                match send.poll_reset(cx) {
                    Poll::Ready(reset) => return Poll::Ready(Err(CopyError::Tunnel(why(reset)))),
                    Poll::Pending => {}
                }
            }
            buffer.idle();
            Poll::Pending
        })
        .await?;
        // Nothing is read that the tunnel does not take: it waits with its sender.
        let room = std::future::poll_fn(|cx| {
            let polled = send.poll_capacity(cx, buffer.wanted());
            if polled.is_pending() {
                buffer.idle();
                // The end takes no room.
                return poll_end(tcp, cx).map(|end| end.map(|()| Some(Ok(1))).map_err(CopyError::Tcp));
            }
            polled.map(Ok)
        });
        let room = match room.await? {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Err(reset(send, error).await),
            None => return Err(reset(send, Reason::CANCEL.into()).await),
        };
        let n = match tcp.try_read_buf(&mut buffer.space().limit(room)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                send.give_up();
                continue;
            }
            read => read.map_err(CopyError::Tcp)?,
        };
        if n == 0 {
            // The kernel tells the error once, and after it only an end.
            if ends.tcp_failed.load(Ordering::Relaxed) {
                return Err(CopyError::Tcp(failure(tcp)));
            }
            return match send.end() {
                Ok(()) => Ok(()),
                Err(error) => Err(reset(send, error).await),
            };
        }
        if let Err(error) = send.send(buffer.take(n)) {
            return Err(reset(send, error).await);
        }
        count(n as u64);
    }
}

/// Ready when all was read and there is no more to come. An error is told here alone.
fn poll_end(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut byte = [MaybeUninit::uninit()];
    loop {
        match tcp.try_io(Interest::READABLE, || SockRef::from(tcp).peek(&mut byte)) {
            Ok(0) => return Poll::Ready(Ok(())),
            // The end comes after what waits.
            Ok(_) => return Poll::Pending,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            Err(_) => ready!(tcp.poll_read_ready(cx))?,
        }
    }
}

/// Why nothing can be sent: the peer's reset, if there was one. h2 says of a stream that is reset only that it is.
async fn reset(send: &mut Sender, error: h2::Error) -> CopyError {
    let reset = std::future::poll_fn(|cx| Poll::Ready(send.poll_reset(cx))).await;
    CopyError::Tunnel(match reset {
        Poll::Ready(reset) => why(reset),
        Poll::Pending => error.into(),
    })
}

fn why(reset: Result<Reason, h2::Error>) -> Http2Error {
    reset.map_or_else(Http2Error::from, Http2Error::reset)
}
