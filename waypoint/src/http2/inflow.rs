//! Bodies that arrive on a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::backlog::Backlog;
use super::turns::Turns;

/// The body of a message that arrives on a stream. Dropped before its end, it lets the stream be reset.
pub(crate) struct Inflow(Arc<Stream>);

/// What the reader of a stream and the task of its connection share.
pub(super) struct Stream {
    state: Mutex<State>,
    arrival: Waker,
}

struct State {
    recv: RecvStream,
    /// Taken out of h2, and not yet by the reader.
    backlog: Backlog,
    end: Option<End>,
    /// Of the declared length: what the reader has not got yet.
    left: Option<u64>,
    /// A reset without an error is an end: of a response, after which the endpoint wants no more of the request (RFC 9113 §8.1).
    is_response: bool,
    reader: Option<Waker>,
}

/// How the body ended, as far as it has not been read.
enum End {
    Whole,
    Trailers(HeaderMap),
    Failed(h2::Error),
    Read,
}

impl Inflow {
    /// The body of a request.
    pub(crate) fn request(recv: RecvStream, headers: &HeaderMap, turns: &Turns) -> Self {
        Self::new(recv, headers, turns, false)
    }

    /// The body of a response.
    pub(crate) fn response(recv: RecvStream, headers: &HeaderMap, turns: &Turns) -> Self {
        Self::new(recv, headers, turns, true)
    }

    fn new(recv: RecvStream, headers: &HeaderMap, turns: &Turns, is_response: bool) -> Self {
        let declared = headers.get(http::header::CONTENT_LENGTH);
        let left = match recv.is_end_stream() {
            true => Some(0),
            false => declared.and_then(|length| length.to_str().ok()?.parse().ok()),
        };
        let state = State {
            recv,
            backlog: Backlog::default(),
            end: None,
            left,
            is_response,
            reader: None,
        };
        let stream = Arc::new_cyclic(|weak| Stream {
            state: Mutex::new(state),
            arrival: turns.arrival(weak.clone()).into(),
        });
        stream.absorb();
        Self(stream)
    }

    /// Whether its end has arrived and been read.
    pub(crate) fn is_whole(&self) -> bool {
        let state = self.0.state.lock();
        let ended = match &state.end {
            Some(End::Whole | End::Read) => true,
            Some(End::Trailers(_) | End::Failed(_)) => false,
            None => state.recv.is_end_stream(),
        };
        ended && state.backlog.is_empty()
    }
}

impl Stream {
    /// Takes out of h2 what it has.
    pub(super) fn absorb(&self) {
        let mut state = self.state.lock();
        let mut cx = Context::from_waker(&self.arrival);
        let mut arrived = false;
        while state.end.is_none() {
            match state.receive(&mut cx) {
                Poll::Ready(Ok(data)) => state.backlog.push(data),
                Poll::Ready(Err(end)) => state.end = Some(end),
                Poll::Pending => break,
            }
            arrived = true;
        }
        let reader = state.reader.take_if(|_| arrived);
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl State {
    /// The next bytes, or how they end.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => Ok(data),
                Some(Err(error))
                    if self.is_response && error.is_reset() && error.reason() == Some(Reason::NO_ERROR) =>
                {
                    Err(End::Whole)
                }
                Some(Err(error)) => Err(End::Failed(error)),
                None => Err(match ready!(self.recv.poll_trailers(cx)) {
                    Ok(Some(trailers)) => End::Trailers(trailers),
                    Ok(None) => End::Whole,
                    Err(error) => End::Failed(error),
                }),
            });
        }
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut state = self.0.state.lock();
        if let Some(data) = state.backlog.pop() {
            let length = data.len();
            state.left = state.left.map(|left| left.saturating_sub(length as u64));
            // Only now may the peer send more.
            if let Err(error) = state.recv.flow_control().release_capacity(length) {
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match state.end.take() {
            Some(End::Whole | End::Read) => {
                state.end = Some(End::Read);
                Poll::Ready(None)
            }
            Some(End::Trailers(trailers)) => {
                state.end = Some(End::Read);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(End::Failed(error)) => {
                state.end = Some(End::Read);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                match &mut state.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    reader => *reader = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.state.lock().left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }
}
