//! Common parts of the fuzz targets: cutting an input, streams in memory, a runtime with simulated time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Steps of a session: a byte for the kind, one or two for the length, and that many bytes.
pub struct Steps<'a>(pub &'a [u8]);

impl<'a> Iterator for Steps<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match (length, rest) {
            (255, [more, rest @ ..]) => (255 + usize::from(*more) * 16, rest),
            _ => (usize::from(length), rest),
        };
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Some((kind, payload))
    }
}

/// A runtime of one thread. When all tasks wait, time jumps to the next timer.
pub fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread")
}

/// Runs `future` to its end, on a runtime that each thread keeps.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local!(static RUNTIME: Runtime = runtime());
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// One end of a stream: reads return portions; writes are accepted.
pub struct Peer {
    input: Vec<u8>,
    at: usize,
    portion: usize,
    /// After the input: the end, or silence.
    ends: bool,
}

impl Peer {
    /// Sends `input`, `portion` bytes at a time (0: all at once), and then nothing, or the end if it has `ended`.
    pub fn new(input: Vec<u8>, portion: usize, ends: bool) -> Self {
        Self {
            portion: if portion == 0 { usize::MAX } else { portion },
            input,
            at: 0,
            ends,
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.input.len() - self.at;
        if left == 0 && !self.ends {
            return Poll::Pending;
        }
        let taken = left.min(self.portion).min(buf.remaining());
        buf.put_slice(&self.input[self.at..self.at + taken]);
        self.at += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
