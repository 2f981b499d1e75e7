//! From a stream to a TCP connection.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::CopyError;
use super::backlog::Backlog;
use super::tcp::{poll_write, shutdown};
use crate::receiver::Receiver;

pub(super) async fn stream_to_tcp(
    recv: &mut Receiver,
    tcp: &TcpStream,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    let (mut backlog, mut data) = (Backlog::default(), Bytes::new());
    let mut end = None;
    std::future::poll_fn(|cx| {
        loop {
            if data.is_empty() {
                if let Some(next) = backlog.pop() {
                    data = next;
                } else if let Some(end) = end.take() {
                    return Poll::Ready(end);
                } else {
                    match ready!(receive(recv, cx)) {
                        Ok(next) => data = next,
                        Err(ended) => return Poll::Ready(ended),
                    }
                }
                // A frame may be empty.
                continue;
            }
            let Poll::Ready(written) = poll_write(tcp, cx, &data) else {
                // What comes meanwhile is taken off h2's hands, as many small frames would fill them.
                while end.is_none() {
                    match receive(recv, cx) {
                        Poll::Ready(Ok(next)) => backlog.push(next),
                        Poll::Ready(Err(ended)) => end = Some(ended),
                        Poll::Pending => break,
                    }
                }
                return Poll::Pending;
            };
            let n = written.map_err(CopyError::Tcp)?;
            if n == 0 {
                return Poll::Ready(Err(CopyError::Tcp(io::ErrorKind::WriteZero.into())));
            }
            data.advance(n);
            // Only now may the peer send more: what waits for a slow reader waits at the sender, but for a window of it.
            recv.release(n).map_err(CopyError::Tunnel)?;
            count(n as u64);
        }
    })
    .await?;
    shutdown(tcp).map_err(CopyError::Tcp)
}

/// The next bytes, or how they end. Without END_STREAM they are not complete, whatever reason a reset gives: Envoy aborts with
/// NO_ERROR.
fn receive(recv: &mut Receiver, cx: &mut Context<'_>) -> Poll<Result<Bytes, Result<(), CopyError>>> {
    Poll::Ready(match ready!(recv.poll_data(cx)) {
        Some(Ok(data)) => Ok(data),
        Some(Err(error)) => Err(Err(CopyError::Tunnel(error))),
        None => Err(Ok(())),
    })
}
