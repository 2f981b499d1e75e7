//! A client's byte stream as hyper reads it: what was read to learn the protocol first, and HTTP/1 framing watched.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::{Framing, FramingError};

/// What the connection's task and its requests share with its stream.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The bytes are another protocol's from now on.
    upgraded: AtomicBool,
    /// A request has begun that has not been read to its end.
    busy: AtomicBool,
    violation: Mutex<Option<FramingError>>,
}

impl Watch {
    /// Ends the watching: the connection has been upgraded.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    /// Whether a request is being read.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Why a request is refused.
    pub(crate) fn violation(&self) -> Option<FramingError> {
        *self.violation.lock()
    }

    /// The same, once.
    pub(crate) fn take_violation(&self) -> Option<FramingError> {
        self.violation.lock().take()
    }
}

struct Watched {
    framing: Framing,
    watch: Arc<Watch>,
    head_timeout: Duration,
    /// Runs while a head has begun and its end has not come.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Nothing more must be read as a request, for this reason.
    spoiled: Option<FramingError>,
}

/// The stream; `prefix` is read before what comes from `io`.
pub(crate) struct ClientIo<IO> {
    io: IO,
    prefix: Bytes,
    watched: Option<Watched>,
}

impl<IO> ClientIo<IO> {
    /// As it is.
    pub(crate) fn new(io: IO, prefix: Bytes) -> Self {
        Self {
            io,
            prefix,
            watched: None,
        }
    }

    /// With HTTP/1 requests on it, whose heads must be complete `head_timeout` after their first byte.
    pub(crate) fn with_requests(mut self, watch: Arc<Watch>, head_timeout: Duration) -> Self {
        self.watched = Some(Watched {
            framing: Framing::default(),
            watch,
            head_timeout,
            deadline: None,
            spoiled: None,
        });
        self
    }
}

impl Watched {
    /// Spoils what must not be read as a request: no parser takes NUL for a part of a head, or of a chunk's size.
    fn follow(&mut self, bytes: &mut [u8]) {
        if self.watch.upgraded.load(Ordering::Acquire) {
            self.deadline = None;
            return;
        }
        if self.spoiled.is_some() {
            bytes.fill(0);
            return;
        }
        if let Err((offset, error)) = self.framing.follow(bytes) {
            bytes[offset..].fill(0);
            self.spoiled = Some(error);
            self.watch.violation.lock().get_or_insert(error);
        }
        let busy = !self.framing.is_between();
        if self.watch.busy.load(Ordering::Relaxed) != busy {
            self.watch.busy.store(busy, Ordering::Release);
        }
        if !self.framing.in_head() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            let deadline = Instant::now() + self.head_timeout;
            self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
    }

    /// Why there is nothing more to read. Unlike heads, the extension of a chunk and trailers may have NUL for hyper, which would wait for
    /// their end.
    fn broken_off(&self) -> Option<io::Error> {
        let error = self
            .spoiled
            .filter(|error| matches!(error, FramingError::Chunk))?;
        Some(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.deadline {
            Some(deadline) if !self.watch.upgraded.load(Ordering::Acquire) => {
                deadline.as_mut().poll(cx).map(|()| {
                    Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        SlowHead(self.head_timeout),
                    ))
                })
            }
            _ => Poll::Pending,
        }
    }
}

/// A request's head did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the head of a request was not complete within {}s", .0.as_secs_f32())]
pub(crate) struct SlowHead(Duration);

impl<IO: AsyncRead + Unpin> AsyncRead for ClientIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Some(error) = this.watched.as_ref().and_then(Watched::broken_off) {
            return Poll::Ready(Err(error));
        }
        if this.prefix.is_empty() {
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    return match &mut this.watched {
                        Some(watched) => watched.poll_slow(cx),
                        None => Poll::Pending,
                    };
                }
            }
        } else {
            let taken = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..taken]);
            this.prefix.advance(taken);
            if this.prefix.is_empty() {
                this.prefix = Bytes::new();
            }
        }
        if let Some(watched) = &mut this.watched {
            watched.follow(&mut buf.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ClientIo<IO> {
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
