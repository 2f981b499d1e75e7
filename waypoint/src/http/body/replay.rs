//! Bodies that can be sent again: what has come so far is kept while it is sent, as long as it is little.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::client::{BodyError, ClientBody};
use crate::account::Held;
use crate::http::headers;

/// A client's body and its beginning.
pub(crate) struct Spool {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: ClientBody,
    /// The length that the client declared, if it did.
    hint: SizeHint,
    /// Copied: a frame of one byte would hold on to what was read with it.
    kept: Vec<u8>,
    /// Counts what is kept.
    held: Held,
    trailers: Option<HeaderMap>,
    limit: usize,
    /// What came is not kept any more, or it broke off: it is not sent again.
    spoilt: bool,
    ended: bool,
    /// Of the latest try, which alone may read on.
    generation: u64,
    /// Whoever waits for more of the body.
    waiting: Option<Waker>,
}

impl Shared {
    /// It is not sent again.
    fn spoil(&mut self) {
        self.spoilt = true;
        self.kept = Vec::new();
        self.held.clear();
    }
}

impl Spool {
    /// Keeps up to `limit` bytes of `body`, as far as there is room for them on the account of `held`.
    pub(crate) fn new(body: ClientBody, limit: usize, held: Held) -> Self {
        let shared = Shared {
            hint: body.size_hint(),
            body,
            kept: Vec::new(),
            held,
            trailers: None,
            limit,
            spoilt: false,
            ended: false,
            generation: 0,
            waiting: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Whether all that was sent can be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        !self.shared.lock().spoilt
    }

    /// Whether all that was sent can be sent again. Then the try before takes no more, and ends with an error if it has not ended: an
    /// HTTP/2 connection goes on sending the body after the answer, and would take from the next try what it reads. Else it goes on.
    pub(crate) fn seal(&self) -> bool {
        self.next_generation().is_some()
    }

    /// The body from its beginning, if that is kept. It ends the try before, as [`Spool::seal`] does.
    pub(crate) fn again(&self) -> Option<Try> {
        let generation = self.next_generation()?;
        Some(Try {
            shared: Arc::clone(&self.shared),
            generation,
            sent: 0,
            done: false,
        })
    }

    /// A copy of the body, if it has ended and all of it is kept.
    pub(crate) fn copy(&self) -> Option<Bytes> {
        let shared = self.shared.lock();
        let ended = shared.ended || shared.body.is_end_stream();
        let whole = ended && !shared.spoilt && shared.trailers.is_none();
        whole.then(|| Bytes::copy_from_slice(&shared.kept))
    }

    fn next_generation(&self) -> Option<u64> {
        let mut shared = self.shared.lock();
        if shared.spoilt {
            return None;
        }
        shared.generation += 1;
        let (generation, waiting) = (shared.generation, shared.waiting.take());
        drop(shared);
        if let Some(waker) = waiting {
            waker.wake();
        }
        Some(generation)
    }
}

/// The body, for one try.
pub(crate) struct Try {
    shared: Arc<Mutex<Shared>>,
    generation: u64,
    /// Bytes of what is kept.
    sent: usize,
    done: bool,
}

impl Try {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let mut shared = self.shared.lock();
        if shared.generation != self.generation {
            // What an HTTP/2 stream is reset with, then.
            let error = BodyError::SentAgain(h2::Reason::CANCEL.into());
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(data) = shared.kept.get(self.sent..).filter(|data| !data.is_empty()) {
            self.sent += data.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(data)))));
        }
        if shared.ended {
            self.done = true;
            return Poll::Ready(shared.trailers.clone().map(Frame::trailers).map(Ok));
        }
        let Poll::Ready(frame) = Pin::new(&mut shared.body).poll_frame(cx) else {
            shared.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        shared.waiting = None;
        // After an error a body of HTTP/1 says that it has ended.
        shared.spoilt |= matches!(frame, Some(Err(_)));
        let Some(frame) = frame.transpose()? else {
            (shared.ended, self.done) = (true, true);
            return Poll::Ready(None);
        };
        if let Some(data) = frame.data_ref() {
            // Once an answer has begun nothing is sent again.
            shared.spoilt |= shared.body.is_answered();
            if shared.spoilt
                || shared.kept.len().saturating_add(data.len()) > shared.limit
                || !shared.held.try_grow(data.len())
            {
                shared.spoil();
            } else {
                shared.kept.extend_from_slice(data);
                self.sent = shared.kept.len();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            if shared.held.try_grow(headers::size(trailers)) {
                shared.trailers = Some(trailers.clone());
            } else {
                shared.spoil();
            }
            (shared.ended, self.done) = (true, true);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        if self.done {
            return true;
        }
        let shared = self.shared.lock();
        if shared.generation != self.generation {
            return false;
        }
        let sent = shared.spoilt || self.sent == shared.kept.len();
        sent && shared.trailers.is_none() && (shared.ended || shared.body.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        // It is asked before the first frame only.
        self.shared.lock().hint
    }
}

#[cfg(test)]
mod tests;
