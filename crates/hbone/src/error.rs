//! What can go wrong, in words that do not depend on who does HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_tls::{CertificateError, HandshakeError};
use h2::Reason;
use http::uri::Authority;

/// A failure of HTTP/2: of one stream, or of its connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Http2Error {
    /// The stream was reset, by the peer or here.
    #[error("the stream was reset: {0}")]
    Reset(ErrorCode),
    /// One side has ended the connection.
    #[error("the connection was ended: {0}")]
    GoAway(ErrorCode),
    /// The connection's transport failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The stream or its connection is in no state for what was asked.
    #[error("{0}")]
    State(Arc<StateError>),
}

/// Something that HTTP/2 does not permit now.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateError(h2::Error);

/// An HTTP/2 error code (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(Reason);

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self.0.into()
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl Http2Error {
    pub(crate) fn reset(reason: Reason) -> Self {
        Self::Reset(ErrorCode(reason))
    }

    /// Whether the stream was reset without an error: the peer wants no more.
    pub(crate) fn wants_no_more(&self) -> bool {
        matches!(self, Self::Reset(ErrorCode(Reason::NO_ERROR)))
    }
}

impl From<h2::Error> for Http2Error {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_go_away() => Self::GoAway(ErrorCode(reason)),
            Some(reason) => Self::reset(reason),
            None if error.is_io() => match error.into_io() {
                Some(error) => Self::Io(Arc::new(error)),
                None => Self::Io(Arc::new(io::ErrorKind::ConnectionAborted.into())),
            },
            None => Self::State(Arc::new(StateError(error))),
        }
    }
}

impl From<Http2Error> for io::Error {
    fn from(error: Http2Error) -> Self {
        let kind = match &error {
            Http2Error::Reset(_) => io::ErrorKind::ConnectionReset,
            Http2Error::Io(error) => error.kind(),
            Http2Error::GoAway(_) | Http2Error::State(_) => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

/// Why copying ended before both sides had said all they had to say.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The first of the two connections failed.
    #[error("{0}")]
    Tcp(#[source] io::Error),
    /// The second of two TCP connections failed.
    #[error("{0}")]
    OtherTcp(#[source] io::Error),
    /// The CONNECT stream was reset or its connection failed.
    #[error(transparent)]
    Tunnel(#[from] Http2Error),
}

/// Why there is no connection. Shared by all who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// No certificate for the source identity.
    #[error("no certificate for {identity}: {error}")]
    Certificate {
        /// As whom the connection was to be made.
        identity: SpiffeId,
        /// Why.
        error: CertificateError,
    },
    /// TCP failed.
    #[error("connecting to {address}: {error}")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// Why.
        error: Arc<io::Error>,
    },
    /// The TLS handshake failed: the peer is not who it should be, or does not accept us.
    #[error("TLS with {address}: {error}")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// Why.
        error: HandshakeError,
    },
    /// HTTP/2 failed.
    #[error("HTTP/2 with {address}: {error}")]
    Http2 {
        /// Where to.
        address: SocketAddr,
        /// Why.
        error: Http2Error,
    },
    /// It took longer than [`HboneConfig::connect_timeout`](crate::HboneConfig::connect_timeout).
    #[error("no connection to {address} within {}s", .waited.as_secs_f32())]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// How long it was tried.
        waited: Duration,
    },
    /// The pool has shut down.
    #[error("shutting down")]
    Closed,
}

/// Why there is no stream.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The destination's proxy answered something else than 200: 401 where its policy denies, 400 and 405 where it refuses the
    /// request, 503 where the application does not take the connection.
    #[error("the destination's proxy responded {status}")]
    Refused {
        /// The response.
        status: http::StatusCode,
        /// What the proxy said besides.
        headers: Box<http::HeaderMap>,
    },
    /// The request was certainly not looked at.
    #[error("the connection ended: {0}")]
    Unsent(Http2Error),
    /// The stream or its connection failed.
    #[error("the connection failed: {0}")]
    Stream(Http2Error),
    /// No answer came.
    #[error("no response within {}s", .0.as_secs_f32())]
    ResponseTimeout(Duration),
    /// The destination cannot be the target of a CONNECT.
    #[error("{0} is not an authority")]
    Authority(Authority),
}

impl OpenError {
    /// What the destination's proxy said in a field when it denied the request (401).
    pub fn denied_with(&self, field: &str) -> Option<&str> {
        match self {
            Self::Refused { status, headers } if *status == http::StatusCode::UNAUTHORIZED => {
                headers.get(field)?.to_str().ok()
            }
            _ => None,
        }
    }

    /// Whether nothing listens for HBONE there: the pod has left the mesh, or its address is another's.
    pub fn is_nobody_there(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Dial { error, .. }) => {
                error.kind() == io::ErrorKind::ConnectionRefused
            }
            _ => false,
        }
    }
}

/// As readers and writers of bytes have it.
pub(super) fn failure(error: h2::Error) -> io::Error {
    Http2Error::from(error).into()
}
