//! What the client counts, under the names that Istio's ztunnel has for it.

use prometheus::{IntCounterVec, Opts, Registry};
use tonic::{Code, Status};

/// Why a stream to the control plane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Termination {
    /// It did not come about: nothing was received on it.
    ConnectionError,
    /// It broke.
    Error,
    /// The control plane asked the client to open another one.
    Reconnect,
    /// The control plane ended it without a word.
    Complete,
}

impl Termination {
    const ALL: [Self; 4] = [
        Self::ConnectionError,
        Self::Error,
        Self::Reconnect,
        Self::Complete,
    ];

    /// Of a stream that ended with `status`; `answered`: something had been received on it.
    pub(super) fn of(status: &Status, answered: bool) -> Self {
        // A status that the server sent has no cause on this side.
        let sent = std::error::Error::source(status).is_none();
        match status.code() {
            _ if !answered => Self::ConnectionError,
            Code::Ok => Self::Complete,
            Code::Unavailable if sent => Self::Reconnect,
            _ => Self::Error,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::ConnectionError => "ConnectionError",
            Self::Error => "Error",
            Self::Reconnect => "Reconnect",
            Self::Complete => "Complete",
        }
    }
}

/// The metrics of one client.
#[derive(Debug, Clone)]
pub(super) struct ClientMetrics {
    terminations: IntCounterVec,
    messages: IntCounterVec,
    bytes: IntCounterVec,
}

impl ClientMetrics {
    /// Of a client that subscribes to `types`. Every series is there from the beginning.
    pub(super) fn register<'a>(
        registry: &Registry,
        types: impl Iterator<Item = &'a str>,
    ) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let metrics = Self {
            terminations: counters(
                "istio_xds_connection_terminations_total",
                "Streams to the control plane that have ended, by reason",
                "reason",
            )?,
            messages: counters(
                "istio_xds_message_total",
                "Messages received from the control plane, by type of resource",
                "url",
            )?,
            bytes: counters(
                "istio_xds_message_bytes_total",
                "Bytes of messages received from the control plane, by type of resource",
                "url",
            )?,
        };
        for termination in Termination::ALL {
            metrics.terminations.with_label_values(&[termination.label()]);
        }
        for url in types {
            metrics.messages.with_label_values(&[url]);
            metrics.bytes.with_label_values(&[url]);
        }
        Ok(metrics)
    }

    pub(super) fn terminated(&self, termination: Termination) {
        self.terminations.with_label_values(&[termination.label()]).inc();
    }

    /// A message of a type that was subscribed to.
    pub(super) fn received(&self, url: &str, bytes: usize) {
        self.messages.with_label_values(&[url]).inc();
        self.bytes.with_label_values(&[url]).inc_by(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_the_control_plane_ends_is_told_from_one_that_breaks() {
        let aged = Status::unavailable("the connection has reached its age");
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        for (status, answered, expected) in [
            (&aged, true, Termination::Reconnect),
            (&aged, false, Termination::ConnectionError),
            (&broken, true, Termination::Error),
            (&broken, false, Termination::ConnectionError),
            (&Status::new(Code::Ok, ""), true, Termination::Complete),
            (&Status::permission_denied("no"), true, Termination::Error),
        ] {
            assert_eq!(Termination::of(status, answered), expected, "{status}");
        }
    }
}
