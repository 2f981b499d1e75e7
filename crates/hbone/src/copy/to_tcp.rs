//! From a stream to a TCP connection.

use std::io;
use std::task::{Poll, ready};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::tcp::{poll_write, shutdown};
use crate::CopyError;
use crate::receiver::Receiver;

pub(super) async fn stream_to_tcp(
    recv: &mut Receiver,
    tcp: &TcpStream,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    let mut data = Bytes::new();
    std::future::poll_fn(|cx| {
        loop {
            if data.is_empty() {
                // Without END_STREAM what came is not complete, whatever reason a reset gives: Envoy aborts with NO_ERROR.
                match ready!(recv.poll_data(cx)) {
                    // A frame may be empty.
                    Some(next) => data = next.map_err(|error| CopyError::Tunnel(error.into()))?,
                    None => return Poll::Ready(Ok(())),
                }
                continue;
            }
            let Poll::Ready(written) = poll_write(tcp, cx, &data) else {
                recv.collect(cx);
                return Poll::Pending;
            };
            let n = written.map_err(CopyError::Tcp)?;
            if n == 0 {
                return Poll::Ready(Err(CopyError::Tcp(io::ErrorKind::WriteZero.into())));
            }
            data.advance(n);
            // Only now may the peer send more: what waits for a slow reader waits at the sender, but for a window of it.
            recv.release(n).map_err(|error| CopyError::Tunnel(error.into()))?;
            count(n as u64);
        }
    })
    .await?;
    shutdown(tcp).map_err(CopyError::Tcp)
}
