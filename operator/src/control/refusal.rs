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
    NotOwnIdentity,
    TrustDomain,
    BadRequest,
    /// Past a limit.
    Limit,
    /// Not the client's fault; it may retry.
    Unavailable,
}

impl Reason {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::InvalidToken => "invalid_token",
            Self::UnboundToken => "unbound_token",
            Self::PodUnknown => "pod_unknown",
            Self::NotAllowed => "not_allowed",
            Self::NotOnNode => "identity_not_on_node",
            Self::NotOwnIdentity => "not_own_identity",
            Self::TrustDomain => "trust_domain",
            Self::BadRequest => "bad_request",
            Self::Limit => "limit",
            Self::Unavailable => "unavailable",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NoToken | Self::InvalidToken | Self::UnboundToken | Self::PodUnknown => {
                Code::Unauthenticated
            }
            Self::NotAllowed | Self::NotOnNode | Self::NotOwnIdentity | Self::TrustDomain => {
                Code::PermissionDenied
            }
            Self::BadRequest => Code::InvalidArgument,
            Self::Limit => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
        }
    }
}

/// Both ends of a call's connection, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
}

impl Addresses {
    pub(super) fn new(peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        // On a listener for both families an IPv4 address comes as ::ffff:a.b.c.d.
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Self {
            peer: peer.map(canonical),
            local: local.map(canonical),
        }
    }
}

/// A refused call.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) caller: String,
    pub(super) addresses: Addresses,
    pub(super) message: String,
}

impl Refusal {
    /// Logs and counts the refusal; the status for the client has the client, the subject and the reason.
    pub(super) fn record(self, metrics: &Metrics, what: &'static str) -> Status {
        let Self {
            reason,
            caller,
            addresses: Addresses { peer, local },
            message,
        } = self;
        let label = reason.label();
        let [peer, local] = [peer, local].map(|a| a.map_or_else(|| "unknown".to_owned(), |a| a.to_string()));
        warn!(what, caller, peer, local, reason = label, message, "call refused");
        metrics.refused(label);
        Status::new(
            reason.code(),
            format!("{what} refused to {caller} ({peer}) by {local}: {message}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use prometheus::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_has_both_addresses() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let refusal = Refusal {
            reason: Reason::NotOnNode,
            caller: "ztunnel ambit-system/z on node a".to_owned(),
            addresses: Addresses {
                peer: Some("10.0.0.1:4000".parse().unwrap()),
                local: Some("10.0.0.2:15012".parse().unwrap()),
            },
            message: "no such pod here".to_owned(),
        };
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let status =
            tracing::subscriber::with_default(subscriber, || refusal.record(&metrics, "a certificate"));
        assert_eq!(status.code(), Code::PermissionDenied);
        let line = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        for part in [
            "peer=\"10.0.0.1:4000\"",
            "local=\"10.0.0.2:15012\"",
            "identity_not_on_node",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
