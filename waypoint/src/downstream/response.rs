//! Bodies of answers on their way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::deadline::Deadline;
use crate::observe::{Flag, RequestRecord};
use crate::received::{ReceiveError, Received};
use crate::state::Endpoint;
use crate::upstream::{Http1Connection, Place, Upstream};

/// An answer's body that is not wanted is read up to this many bytes, if they are there already, to keep its connection.
const MAX_DISCARD: usize = 64 << 10;

/// What carries an answer.
pub(super) enum Link {
    Http1(Box<Http1Connection>),
    Http2(Place),
}

/// The answer of an endpoint. Its HTTP/1 connection is driven by whoever reads the body, and goes back to the pool at its end.
pub(crate) struct UpstreamBody {
    incoming: Received,
    link: Option<Link>,
    upstream: Arc<Upstream>,
    /// Counts the request as in flight at the endpoint.
    endpoint: Endpoint,
    /// When it is cut.
    deadline: Option<Deadline>,
    /// Ends with the body.
    record: Option<RequestRecord>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Received, link: Link, upstream: &Arc<Upstream>, endpoint: Endpoint) -> Self {
        Self {
            incoming,
            link: Some(link),
            upstream: Arc::clone(upstream),
            endpoint,
            deadline: None,
            record: None,
        }
    }

    /// What is not there by then is cut.
    pub(super) fn until(mut self, deadline: Option<Deadline>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The record ends with the body.
    pub(super) fn recording(mut self, record: RequestRecord) -> Self {
        self.record = Some(record);
        self
    }

    /// Reads what is left if it is little and there already, so that the connection can be used again.
    pub(super) fn discard(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut discarded = 0;
        while discarded <= MAX_DISCARD && !self.incoming.is_end_stream() {
            match self.poll_next(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => discarded += frame.data_ref().map_or(0, Bytes::len),
                Poll::Ready(None) => return,
                Poll::Ready(Some(Err(_))) | Poll::Pending => break,
            }
        }
        if self.incoming.is_end_stream() {
            self.complete();
        }
    }

    /// What an upgrade goes on with.
    pub(super) fn into_link(mut self) -> (Option<Link>, Option<RequestRecord>, Endpoint) {
        (self.link.take(), self.record.take(), self.endpoint.clone())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        if let Some(Link::Http1(connection)) = &mut self.link {
            connection.drive(cx);
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Some(late) = self.late(polled.is_pending(), cx) {
            return Poll::Ready(Some(Err(late)));
        }
        let frame = ready!(polled);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(record) = &mut self.record {
                    if let Some(data) = frame.data_ref() {
                        record.sent(data);
                    } else if let Some(trailers) = frame.trailers_ref() {
                        record.trailers(trailers);
                    }
                }
                if self.incoming.is_end_stream() {
                    self.complete();
                }
            }
            Some(Err(error)) => {
                self.link = None;
                if let Some(mut record) = self.record.take() {
                    let flag = match error.is_no_room() {
                        true => Flag::Overloaded,
                        false => Flag::UpstreamReset,
                    };
                    record.failed(flag, format!("upstream: the response was cut: {error}"));
                    record.end();
                }
            }
            None => self.complete(),
        }
        Poll::Ready(frame)
    }

    /// Cuts the response, where there is more of it to come and its time is over.
    fn late(&mut self, awaited: bool, cx: &mut Context<'_>) -> Option<ReceiveError> {
        let deadline = self.deadline.as_mut()?;
        let over = match awaited {
            true => deadline.poll_over(cx).is_ready(),
            false => !self.incoming.is_end_stream() && deadline.is_over(),
        };
        if !over {
            return None;
        }
        let reason = format!("{}: the response was cut", deadline.reason());
        if let Some(mut record) = self.record.take() {
            record.governed_by(&deadline.policy);
            record.failed(Flag::Timeout, reason.as_str());
            record.end();
        }
        self.deadline = None;
        self.link = None;
        Some(ReceiveError::Late(reason))
    }

    fn complete(&mut self) {
        match self.link.take() {
            Some(Link::Http1(connection)) => self.upstream.give_back(connection),
            Some(Link::Http2(place)) => place.complete(),
            None => {}
        }
        if let Some(record) = self.record.take() {
            record.end();
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // An answer without a body is never polled. Of one whose end nobody awaited the record says that the client went away.
        if self.link.is_some() && self.incoming.is_end_stream() {
            self.complete();
        }
    }
}

/// A body for a client.
pub(crate) enum ResponseBody {
    /// The waypoint's own words.
    Text(Bytes),
    /// An endpoint's.
    Upstream(Box<UpstreamBody>),
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::Text(Bytes::new())
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self::Text(text)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        match &mut *self {
            Self::Text(text) if text.is_empty() => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Self::Upstream(body) => body.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
