//! Protocols of requests.

use http::{Request, Version};

/// The protocol of a request, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

impl Protocol {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            Self::Grpc
        } else if request.version() == Version::HTTP_2 {
            Self::Http2
        } else {
            Self::Http1
        }
    }

    /// Istio's `request_protocol`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 => "http",
            Self::Grpc => "grpc",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
        }
    }
}
