//! Copying between TCP connections and CONNECT streams: both directions at once, each with its own end.

mod backlog;
mod buffer;

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::HboneStream;
use backlog::Backlog;
use buffer::GrowingBuffer;

/// How long a reader has to take what came before a reset of the stream that it came on.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Told of every chunk copied.
pub trait Meter: Sync {
    /// Bytes of the first argument of a copy that went to the second.
    fn forward(&self, bytes: u64);
    /// Bytes that came back.
    fn backward(&self, bytes: u64);
}

/// Why copying ended before both sides had said all they had to say.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The first of the two connections failed.
    #[error("{0}")]
    Tcp(#[source] io::Error),
    /// The second of two TCP connections failed.
    #[error("{0}")]
    OtherTcp(#[source] io::Error),
    /// The CONNECT stream was reset or its connection failed.
    #[error("{0}")]
    Tunnel(#[source] h2::Error),
}

/// Copies between a TCP connection (forward is what is read from it) and a CONNECT stream until both directions have ended.
/// An end of one direction is passed on and leaves the other open; a failure on one side resets the other, once what had come before a
/// reset of the stream is passed on.
///
/// Dropping the future before its end resets both sides, so that nobody takes a part of the bytes for all of them.
///
/// # Errors
/// The first failure.
pub async fn copy_tunnel(tcp: TcpStream, stream: HboneStream, meter: &impl Meter) -> Result<(), CopyError> {
    let mut tcp = ResetUnlessDone::new(tcp);
    let HboneStream {
        mut send,
        mut recv,
        permit,
    } = stream;
    let result = {
        let (mut read, mut write) = tcp.socket.split();
        let received_all = AtomicBool::new(false);
        let forward = tcp_to_stream(&mut read, &mut send, &received_all, |n| meter.forward(n));
        let backward = async {
            stream_to_tcp(&mut recv, &mut write, |n| meter.backward(n)).await?;
            received_all.store(true, Ordering::Relaxed);
            // Once more round both, so that the other direction begins to watch for a reset.
            tokio::task::yield_now().await;
            Ok(())
        };
        let (mut forward, mut backward) = (pin!(forward), pin!(backward));
        tokio::select! {
            biased;
            result = &mut forward => match result {
                Ok(()) => backward.await,
                // What the peer said before it wanted no more may be the answer that says why; the reset comes after it.
                Err(CopyError::Tunnel(error)) => match timeout(LAST_WORDS, backward).await {
                    Ok(Ok(())) => wants_no_more(error),
                    _ => Err(CopyError::Tunnel(error)),
                },
                Err(error) => Err(error),
            },
            result = &mut backward => match result {
                Ok(()) => match forward.await {
                    Err(CopyError::Tunnel(error)) => wants_no_more(error),
                    result => result,
                },
                Err(error) => Err(error),
            },
        }
    };
    match &result {
        Ok(()) => tcp.done = true,
        // RFC 9113 §8.5: an error of the TCP connection is a stream error of type CONNECT_ERROR.
        Err(CopyError::Tcp(_) | CopyError::OtherTcp(_)) => send.send_reset(Reason::CONNECT_ERROR),
        Err(CopyError::Tunnel(_)) => send.send_reset(Reason::CANCEL),
    }
    drop(permit);
    result
}

/// How it ends when the peer reset the stream after it had said all it had to say. Without an error it only wants no more of us
/// (RFC 9113 §8.1), as a server that closes a connection after its answer.
fn wants_no_more(reset: h2::Error) -> Result<(), CopyError> {
    match reset.reason() {
        Some(Reason::NO_ERROR) => Ok(()),
        _ => Err(CopyError::Tunnel(reset)),
    }
}

/// Copies between two TCP connections (forward is what is read from the first) until both directions have ended. Dropping the
/// future before resets both.
///
/// # Errors
/// The first failure; both connections are reset then.
pub async fn copy_tcp(one: TcpStream, other: TcpStream, meter: &impl Meter) -> Result<(), CopyError> {
    let (mut one, mut other) = (ResetUnlessDone::new(one), ResetUnlessDone::new(other));
    let result = {
        let (mut read_one, mut write_one) = one.socket.split();
        let (mut read_other, mut write_other) = other.socket.split();
        let forward = tcp_to_tcp(
            &mut read_one,
            &mut write_other,
            CopyError::Tcp,
            CopyError::OtherTcp,
            |n| {
                meter.forward(n);
            },
        );
        let backward = tcp_to_tcp(
            &mut read_other,
            &mut write_one,
            CopyError::OtherTcp,
            CopyError::Tcp,
            |n| {
                meter.backward(n);
            },
        );
        tokio::try_join!(forward, backward).map(|_| ())
    };
    (one.done, other.done) = (result.is_ok(), result.is_ok());
    result
}

/// Lets the peer see a reset instead of an end when the socket is closed before all was said.
struct ResetUnlessDone {
    socket: TcpStream,
    done: bool,
}

impl ResetUnlessDone {
    fn new(socket: TcpStream) -> Self {
        Self { socket, done: false }
    }
}

impl Drop for ResetUnlessDone {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.socket.set_zero_linger()
        {
            tracing::debug!(%error, "SO_LINGER");
        }
    }
}

async fn tcp_to_stream(
    read: &mut ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    received_all: &AtomicBool,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    let mut buffer = GrowingBuffer::new();
    loop {
        // No buffer is held while nothing is to be read. A reset by the peer shows on the receiving half while that is open.
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ready) = read.as_ref().poll_read_ready(cx) {
                return Poll::Ready(ready.map_err(CopyError::Tcp));
            }
            if received_all.load(Ordering::Relaxed) {
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
        let n = read.read_buf(buffer.space()).await.map_err(CopyError::Tcp)?;
        if n == 0 {
            return match send.send_data(Bytes::new(), true) {
                Ok(()) => Ok(()),
                Err(error) => Err(reset(send, error).await),
            };
        }
        send_all(send, buffer.take(n)).await?;
        count(n as u64);
    }
}

async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), CopyError> {
    loop {
        send.reserve_capacity(data.len());
        let mut capacity = send.capacity();
        if capacity == 0 {
            capacity = match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(capacity)) => capacity,
                Some(Err(error)) => return Err(reset(send, error).await),
                None => return Err(reset(send, Reason::CANCEL.into()).await),
            };
        }
        let last = capacity >= data.len();
        let part = data.split_to(capacity.min(data.len()));
        if !part.is_empty()
            && let Err(error) = send.send_data(part, false)
        {
            return Err(reset(send, error).await);
        }
        if last {
            return Ok(());
        }
    }
}

/// Why nothing can be sent: the peer's reset, if there was one. h2 says of a stream that is reset only that it is.
async fn reset(send: &mut SendStream<Bytes>, error: h2::Error) -> CopyError {
    let reset = std::future::poll_fn(|cx| Poll::Ready(send.poll_reset(cx))).await;
    CopyError::Tunnel(match reset {
        Poll::Ready(Ok(reason)) => reason.into(),
        Poll::Ready(Err(error)) => error,
        Poll::Pending => error,
    })
}

async fn stream_to_tcp(
    recv: &mut RecvStream,
    write: &mut WriteHalf<'_>,
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
            let Poll::Ready(written) = Pin::new(&mut *write).poll_write(cx, &data) else {
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
            recv.flow_control()
                .release_capacity(n)
                .map_err(CopyError::Tunnel)?;
            count(n as u64);
        }
    })
    .await?;
    shutdown(write).await.map_err(CopyError::Tcp)
}

/// The next bytes, or how they end.
fn receive(recv: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Result<Bytes, Result<(), CopyError>>> {
    Poll::Ready(match ready!(recv.poll_data(cx)) {
        Some(Ok(data)) => Ok(data),
        None => Err(Ok(())),
        // Some servers say so when they have ended their side and want no more from us.
        Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => Err(Ok(())),
        Some(Err(error)) => Err(Err(CopyError::Tunnel(error))),
    })
}

async fn tcp_to_tcp(
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    read_error: fn(io::Error) -> CopyError,
    write_error: fn(io::Error) -> CopyError,
    count: impl Fn(u64),
) -> Result<(), CopyError> {
    let mut buffer = GrowingBuffer::new();
    loop {
        std::future::poll_fn(|cx| {
            let ready = read.as_ref().poll_read_ready(cx);
            if ready.is_pending() {
                buffer.idle();
            }
            ready
        })
        .await
        .map_err(read_error)?;
        let n = read.read_buf(buffer.space()).await.map_err(read_error)?;
        if n == 0 {
            return shutdown(write).await.map_err(write_error);
        }
        write
            .write_all_buf(&mut buffer.take(n))
            .await
            .map_err(write_error)?;
        count(n as u64);
    }
}

async fn shutdown(write: &mut WriteHalf<'_>) -> io::Result<()> {
    match write.shutdown().await {
        // The peer is gone already; it has all that it wanted.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}
