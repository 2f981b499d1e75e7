//! Streams whose bytes are counted as they are read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Tells of every read how many bytes it gave.
pub(crate) struct Counted<IO, F> {
    io: IO,
    count: F,
}

impl<IO, F> Counted<IO, F> {
    pub(crate) fn new(io: IO, count: F) -> Self {
        Self { io, count }
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
        result
    }
}

impl<IO: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Counted<IO, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
