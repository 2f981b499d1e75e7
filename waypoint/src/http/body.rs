//! Bodies of requests on their way to an endpoint.

mod client;
mod replay;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub(crate) use client::{BodyError, ClientBody, Upload};
pub(crate) use replay::Spool;

/// A request's body, as connections to endpoints send it.
pub(crate) enum RequestBody {
    Empty,
    /// Sent once.
    Once(Box<ClientBody>),
    /// One try's view of what can be sent again.
    Replay(replay::Try),
    /// All of it is there; `None` when it has been sent.
    Whole(Option<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => Pin::new(body.as_mut()).poll_frame(cx),
            Self::Replay(body) => Poll::Ready(ready!(body.poll_frame(cx))),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
