//! Streams whose bytes are counted as they are read, and whose errors say whose they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whose stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Endpoint,
}

/// What the streams' errors are made into.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", match .end { End::Client => "the client", End::Endpoint => "the endpoint" })]
struct Failed {
    end: End,
    error: io::Error,
}

/// Whether it was the client's stream that failed.
pub(crate) fn is_clients(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref::<Failed>())
        .is_some_and(|failed| failed.end == End::Client)
}

/// The client has reset its stream, and its endpoint does not take what came before.
pub(crate) fn client_gone() -> io::Error {
    let error = io::ErrorKind::ConnectionReset.into();
    let end = End::Client;
    io::Error::new(io::ErrorKind::ConnectionReset, Failed { end, error })
}

/// Tells of every read how many bytes it gave.
pub(crate) struct Counted<IO, F> {
    io: IO,
    end: End,
    count: F,
}

impl<IO, F> Counted<IO, F> {
    pub(crate) fn new(io: IO, end: End, count: F) -> Self {
        Self { io, end, count }
    }

    fn told<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let end = self.end;
        result.map_err(|error| io::Error::new(error.kind(), Failed { end, error }))
    }
}

impl<IO: AsyncRead + Unpin, F: Fn(u64) + Unpin> AsyncRead for Counted<IO, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            (self.count)(bytes as u64);
        }
        self.told(result)
    }
}

impl<IO: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Counted<IO, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.told(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.told(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.told(result)
    }
}
