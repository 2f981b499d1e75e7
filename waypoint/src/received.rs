//! Bodies of messages that arrive.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http2::{Inflow, InflowError};

/// The body of a message that arrives on a connection.
pub(crate) enum Received {
    Http1(Incoming),
    Http2(Inflow),
}

/// Why a body did not arrive to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("{0}")]
    Http1(#[source] hyper::Error),
    #[error("{0}")]
    Http2(#[source] InflowError),
    /// It took longer than it may. The text says by whose word.
    #[error("{0}")]
    Late(String),
}

impl ReceiveError {
    /// Whether the caller's account had no room for it.
    pub(crate) fn is_no_room(&self) -> bool {
        match self {
            Self::Http1(error) => is_no_room(error),
            Self::Http2(error) => matches!(error, InflowError::NoRoom(_)),
            Self::Late(_) => false,
        }
    }
}

/// Whether a connection failed because the caller's account had no room for what came on it.
pub(crate) fn is_no_room(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::OutOfMemory;
        }
        cause = error.source();
    }
    false
}

impl Body for Received {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(ReceiveError::Http1))),
            Self::Http2(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(ReceiveError::Http2))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
