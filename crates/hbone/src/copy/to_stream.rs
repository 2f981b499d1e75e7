//! From a TCP connection to a stream.

use std::io;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use tokio::net::TcpStream;

use super::buffer::GrowingBuffer;
use super::{CopyError, Ends};
use crate::outgoing::Sender;

pub(super) async fn tcp_to_stream(
    tcp: &TcpStream,
    send: &mut Sender,
    ends: &Ends,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    let mut buffer = GrowingBuffer::new();
    loop {
        // No buffer is held while nothing is to be read. A reset by the peer shows on the receiving half while that is open.
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ready) = tcp.poll_read_ready(cx) {
                return Poll::Ready(ready.map_err(CopyError::Tcp));
            }
            if ends.received_all.load(Ordering::Relaxed) {
                match send.poll_reset(cx) {
                    Poll::Ready(Ok(reason)) => return Poll::Ready(Err(CopyError::Tunnel(reason.into()))),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(CopyError::Tunnel(error))),
                    Poll::Pending => {}
                }
            }
            buffer.idle();
            Poll::Pending
        })
        .await?;
        let n = match tcp.try_read_buf(buffer.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read.map_err(CopyError::Tcp)?,
        };
        if n == 0 {
            // The kernel tells the error once, and after it only an end.
            if ends.tcp_failed.load(Ordering::Relaxed) {
                return Err(CopyError::Tcp(super::failure(tcp)));
            }
            return match send.end() {
                Ok(()) => Ok(()),
                Err(error) => Err(reset(send, error).await),
            };
        }
        send_all(send, buffer.take(n)).await?;
        count(n as u64);
    }
}

async fn send_all(send: &mut Sender, mut data: Bytes) -> Result<(), CopyError> {
    while !data.is_empty() {
        let capacity = match std::future::poll_fn(|cx| send.poll_capacity(cx, data.len())).await {
            Some(Ok(capacity)) => capacity,
            Some(Err(error)) => return Err(reset(send, error).await),
            None => return Err(reset(send, Reason::CANCEL.into()).await),
        };
        if let Err(error) = send.send(data.split_to(capacity)) {
            return Err(reset(send, error).await);
        }
    }
    Ok(())
}

/// Why nothing can be sent: the peer's reset, if there was one. h2 says of a stream that is reset only that it is.
async fn reset(send: &mut Sender, error: h2::Error) -> CopyError {
    let reset = std::future::poll_fn(|cx| Poll::Ready(send.poll_reset(cx))).await;
    CopyError::Tunnel(match reset {
        Poll::Ready(Ok(reason)) => reason.into(),
        Poll::Ready(Err(error)) => error,
        Poll::Pending => error,
    })
}
