//! A client's byte stream as hyper reads it: what was read to learn the protocol first, and HTTP/1 framing watched.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use ambit_hbone::HboneIo;
use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use http::uri::InvalidUri;
use http::{HeaderMap, Request, StatusCode};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::{self, Framing, FramingError};
use super::target;
use crate::account::{Account, Held, Taken, Unwritten};

/// What the connection's task and its requests share with its stream.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The bytes are another protocol's from now on.
    upgraded: AtomicBool,
    /// A request has begun that has not been read to its end.
    busy: AtomicBool,
    /// No further request is to be begun.
    ending: AtomicBool,
    violation: Mutex<Option<FramingError>>,
    interim: Mutex<InterimOut>,
    /// Targets of requests that hyper does not see as they came.
    targets: Mutex<Vec<(u64, Vec<u8>)>>,
    /// Requests that hyper has read.
    requests: AtomicU64,
    /// Requests that have been read to the end of their heads, and whose responses hyper has not taken whole.
    answering: AtomicUsize,
    /// Who is to read again once the client's end may be seen.
    reader: AtomicWaker,
    /// What hyper has taken of responses.
    unwritten: Unwritten,
}

/// Interim responses that are not written yet.
#[derive(Debug, Default)]
struct InterimOut {
    bytes: BytesMut,
    waiting: Option<Waker>,
}

impl Watch {
    /// What hyper has not seen of the next request: puts its head right.
    ///
    /// # Errors
    /// When its target is none.
    pub(crate) fn restore<B>(&self, request: &mut Request<B>) -> Result<(), InvalidUri> {
        framing::restore_expectation(request.headers_mut());
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let raw = {
            let mut targets = self.targets.lock();
            let found = targets.iter().position(|(of, _)| *of == number);
            found.map(|at| targets.swap_remove(at).1)
        };
        match raw {
            Some(raw) => target::restore(request, raw),
            None => Ok(()),
        }
    }

    /// An interim response, to be written before the final one.
    pub(super) fn interim(&self, status: StatusCode, fields: &HeaderMap) {
        let mut interim = self.interim.lock();
        let reason = status.canonical_reason().unwrap_or_default();
        let line = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
        interim.bytes.extend_from_slice(line.as_bytes());
        for (name, value) in fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                interim.bytes.extend_from_slice(part);
            }
        }
        interim.bytes.extend_from_slice(b"\r\n");
    }

    /// Resolves when all of them are written.
    pub(crate) async fn interim_sent(&self) {
        std::future::poll_fn(|cx| {
            let mut interim = self.interim.lock();
            if interim.bytes.is_empty() {
                return Poll::Ready(());
            }
            interim.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the watching: the connection has been upgraded.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Ends the connection as soon as no request is being read or answered. hyper alone would wait for the rest of a head once a client has
    /// sent an empty line.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
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

/// A request that is being answered: until its response has been taken whole, an end of the client's stream is no end of the client,
/// which may have nothing more to say (RFC 9112 §9.6).
pub(crate) struct Answering(Arc<Watch>);

impl Answering {
    pub(crate) fn new(watch: &Arc<Watch>) -> Self {
        watch.answering.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(watch))
    }

    /// Until the body is dropped.
    pub(crate) fn with<B>(self, body: B) -> Taken<B, Self> {
        let unwritten = self.0.unwritten.clone();
        unwritten.of_with(body, self)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}

/// A client's stream: bytes, and a way to learn that nobody reads what is written.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ready when the client has reset the stream.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Resolves when it has, though what it sent before has not been read, and its other side had its time to take that.
    fn gone(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// For an endpoint that does not read, to take what a client sent before it went away.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl ClientStream for HboneIo {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        HboneIo::poll_reset(self, cx)
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let gone = HboneIo::gone(self);
        async move {
            gone.await;
            tokio::time::sleep(LAST_WORDS).await;
        }
    }
}

struct Watched {
    framing: Framing,
    /// Bytes of a head that has begun.
    head: Held,
    watch: Arc<Watch>,
    head_timeout: Duration,
    /// Runs while a head has begun and its end has not come.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Nothing more must be read as a request, for this reason.
    spoiled: Option<FramingError>,
    /// The client's stream has ended.
    ended: bool,
    /// An interim response has been written in part.
    in_interim: bool,
    /// Something was written that has not been flushed.
    unflushed: bool,
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
    /// What waits is on the `account`.
    pub(crate) fn with_requests(
        mut self,
        watch: Arc<Watch>,
        head_timeout: Duration,
        account: &Account,
    ) -> Self {
        watch.unwritten.set(Some(account));
        self.watched = Some(Watched {
            framing: Framing::default(),
            head: account.nothing(),
            watch,
            head_timeout,
            deadline: None,
            spoiled: None,
            ended: false,
            in_interim: false,
            unflushed: false,
        });
        self
    }
}

impl Watched {
    /// Whether what comes next waits: a request has asked for an upgrade, and its response has not been taken whole.
    fn is_held(&mut self) -> bool {
        if !self.framing.is_held() || self.watch.upgraded.load(Ordering::Acquire) {
            return false;
        }
        let answered = self.watch.requests.load(Ordering::Acquire) == self.framing.heads()
            && self.watch.answering.load(Ordering::Acquire) == 0;
        if answered {
            self.framing.go_on();
        }
        !answered
    }

    /// Spoils what must not be read as a request: no parser takes NUL for a part of a head, or of a chunk's size. Says how many bytes may
    /// be read now.
    fn follow(&mut self, bytes: &mut [u8]) -> usize {
        if self.watch.upgraded.load(Ordering::Acquire) {
            self.deadline = None;
            return bytes.len();
        }
        if self.spoiled.is_some() {
            bytes.fill(0);
            return bytes.len();
        }
        let mut followed = bytes.len();
        match self.framing.follow(bytes) {
            Ok(count) => followed = count,
            Err((offset, error)) => {
                bytes[offset..].fill(0);
                self.spoiled = Some(error);
                self.watch.violation.lock().get_or_insert(error);
            }
        }
        let targets = self.framing.take_targets();
        if !targets.is_empty() {
            self.watch.targets.lock().extend(targets);
        }
        let busy = !self.framing.is_between();
        if self.watch.busy.load(Ordering::Relaxed) != busy {
            self.watch.busy.store(busy, Ordering::Release);
        }
        if self.framing.in_head() {
            // hyper bounds it, and what reads no further for want of room would wait for ever.
            self.head.grow_anyway(bytes.len());
        } else {
            self.head.clear();
        }
        if !self.framing.in_head() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            let deadline = Instant::now() + self.head_timeout;
            self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
        followed
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

impl Watched {
    /// Whether the end of the client's stream is kept from hyper, which would take it for the end of the client.
    fn hides_end(&self) -> bool {
        let answering = self.watch.answering.load(Ordering::Acquire) > 0;
        self.framing.is_between()
            && (answering || self.unflushed)
            && !self.watch.upgraded.load(Ordering::Acquire)
    }

    /// Whether nothing more is to be read.
    fn is_over(&self) -> bool {
        self.watch.ending.load(Ordering::Acquire)
            && self.framing.is_between()
            && self.watch.answering.load(Ordering::Acquire) == 0
            && !self.watch.upgraded.load(Ordering::Acquire)
    }

    /// Writes interim responses.
    fn poll_interim(
        &mut self,
        mut io: impl AsyncWrite + Unpin,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut interim = self.watch.interim.lock();
        while !interim.bytes.is_empty() {
            self.in_interim = true;
            let n = ready!(Pin::new(&mut io).poll_write(cx, &interim.bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.bytes.advance(n);
        }
        self.in_interim = false;
        if let Some(waiting) = interim.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: ClientStream> ClientIo<IO> {
    /// Whether the stream has ended and the client waits for its response all the same. An error when it does not.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let watched = self.watched.as_mut().filter(|watched| watched.ended)?;
        watched.watch.reader.register(cx.waker());
        if !watched.hides_end() {
            return Some(Poll::Ready(Ok(())));
        }
        let reset = self.io.poll_reset(cx);
        Some(reset.map(|()| Err(io::ErrorKind::ConnectionReset.into())))
    }
}

impl<IO: ClientStream> ClientIo<IO> {
    /// Waits while nothing may be read, unless the client is gone.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let watched = self.watched.as_mut()?;
        if !watched.is_held() {
            return None;
        }
        watched.watch.reader.register(cx.waker());
        if !watched.is_held() {
            return None;
        }
        let reset = self.io.poll_reset(cx);
        Some(reset.map(|()| Err(io::ErrorKind::ConnectionReset.into())))
    }
}

impl<IO: ClientStream> AsyncRead for ClientIo<IO> {
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
        if this.watched.as_ref().is_some_and(Watched::is_over) {
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = this.poll_ended(cx) {
            return ended;
        }
        if let Some(held) = this.poll_held(cx) {
            return held;
        }
        let mut prefix = this.prefix.clone();
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
            if buf.filled().len() == before
                && let Some(watched) = &mut this.watched
            {
                watched.ended = true;
                return this.poll_ended(cx).unwrap_or(Poll::Ready(Ok(())));
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
            let read = buf.filled().len() - before;
            let followed = watched.follow(&mut buf.filled_mut()[before..]);
            if followed < read {
                // The rest is read once it is known what it is.
                this.prefix = match prefix.is_empty() {
                    true => Bytes::copy_from_slice(&buf.filled()[before + followed..]),
                    false => prefix.split_off(followed),
                };
                buf.set_filled(before + followed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: ClientStream> ClientStream for ClientIo<IO> {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_reset(cx)
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.io.gone()
    }
}

impl<IO: ClientStream> AsyncWrite for ClientIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(watched) = &mut this.watched {
            if watched.in_interim {
                ready!(watched.poll_interim(&mut this.io, cx))?;
            }
            watched.unflushed = true;
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        if let Some(watched) = &this.watched {
            watched.watch.unwritten.written(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // hyper flushes when it has written all of the responses before.
        if let Some(watched) = &mut this.watched {
            watched.watch.unwritten.flushed();
            ready!(watched.poll_interim(&mut this.io, cx))?;
        }
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        if let Some(watched) = &mut this.watched
            && std::mem::take(&mut watched.unflushed)
            && watched.ended
        {
            watched.watch.reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
