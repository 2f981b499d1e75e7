use std::net::SocketAddr;

use tonic::{Code, Status};
use tracing::warn;

use super::metrics::Metrics;

/// Why a call is refused: the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    NoToken,
    InvalidToken,
    UnboundToken,
    PodUnknown,
    NotAllowed,
    NotOnNode,
    TrustDomain,
    BadRequest,
    /// Not the caller's fault; it may come again.
    Unavailable,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::InvalidToken => "invalid_token",
            Self::UnboundToken => "unbound_token",
            Self::PodUnknown => "pod_unknown",
            Self::NotAllowed => "not_allowed",
            Self::NotOnNode => "identity_not_on_node",
            Self::TrustDomain => "trust_domain",
            Self::BadRequest => "bad_request",
            Self::Unavailable => "unavailable",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NoToken | Self::InvalidToken | Self::UnboundToken | Self::PodUnknown => {
                Code::Unauthenticated
            }
            Self::NotAllowed | Self::NotOnNode | Self::TrustDomain => Code::PermissionDenied,
            Self::BadRequest => Code::InvalidArgument,
            Self::Unavailable => Code::Unavailable,
        }
    }
}

/// A call that is not served.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) caller: String,
    pub(super) peer: Option<SocketAddr>,
    pub(super) message: String,
}

impl Refusal {
    /// Logs and counts the refusal; the status for the caller says who was refused what, and why.
    pub(super) fn record(self, metrics: &Metrics, what: &'static str) -> Status {
        let Self {
            reason,
            caller,
            peer,
            message,
        } = self;
        let label = reason.label();
        let peer = peer.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
        warn!(what, caller, peer, reason = label, message, "call refused");
        metrics.refused(label);
        Status::new(
            reason.code(),
            format!("{what} refused to {caller} ({peer}): {message}"),
        )
    }
}
