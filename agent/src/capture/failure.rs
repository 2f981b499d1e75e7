//! Why a pod is not captured. These texts appear in statuses and CNI errors.

use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use std::fmt;

/// CamelCase reasons, for conditions, annotations and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The runtime has no running sandbox for the pod (yet). The CNI call will bring one.
    SandboxNotFound,
    /// No ztunnel is connected to this agent.
    NoZtunnel,
    /// A ztunnel is connected, but has not responded in time.
    ZtunnelSilent,
    /// The ztunnel refused to serve the pod.
    ZtunnelRefused,
    /// The container runtime does not respond.
    RuntimeUnavailable,
    /// The pod's network namespace cannot be opened or entered.
    NetnsUnreachable,
    /// The pod is in the network namespace of the host.
    HostNetwork,
    /// The application listens on 15001, 15006, 15008, or 15009 of the loopback; or a ztunnel that is not connected has
    /// the listeners.
    PortInUse,
    /// The listening sockets could not be created.
    ListenersFailed,
    /// The kernel refused the nftables rules or the route.
    RulesRejected,
    /// No failure: the message describes the step in progress.
    InProgress,
    /// The control plane has sent no record of the pod.
    PodUnknown,
    /// The agent is stopping.
    ShuttingDown,
}

impl Reason {
    /// The reason as text, for a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SandboxNotFound => "SandboxNotFound",
            Self::NoZtunnel => "NoZtunnel",
            Self::ZtunnelSilent => "ZtunnelSilent",
            Self::ZtunnelRefused => "ZtunnelRefused",
            Self::RuntimeUnavailable => "RuntimeUnavailable",
            Self::NetnsUnreachable => "NetnsUnreachable",
            Self::HostNetwork => "HostNetwork",
            Self::PortInUse => "PortInUse",
            Self::ListenersFailed => "ListenersFailed",
            Self::RulesRejected => "RulesRejected",
            Self::InProgress => "InProgress",
            Self::PodUnknown => "PodUnknown",
            Self::ShuttingDown => "ShuttingDown",
        }
    }

    /// Whether the pod is only waiting, as opposed to a failure.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::SandboxNotFound | Self::NoZtunnel | Self::InProgress)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// The kind of failure.
    pub reason: Reason,
    /// The details, and a remedy.
    pub message: String,
}

impl Failure {
    /// A failure for `reason`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    pub(super) fn shutting_down() -> Self {
        Self::new(
            Reason::ShuttingDown,
            "the node agent is stopping; the next one handles the call",
        )
    }

    pub(super) fn ztunnel_silent(waited: std::time::Duration) -> Self {
        let message = format!(
            "a ztunnel is connected and did not acknowledge the pod within {}s",
            waited.as_secs()
        );
        Self::new(Reason::ZtunnelSilent, message)
    }
}

impl From<NetnsError> for Failure {
    fn from(e: NetnsError) -> Self {
        match &e {
            NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Thread(_) => {
                Self::new(Reason::NetnsUnreachable, e.to_string())
            }
            NetnsError::PortInUse { port } => Self::new(
                Reason::PortInUse,
                format!(
                    "{e}: the application must not listen on {port}, or its ztunnel is not connected yet"
                ),
            ),
            NetnsError::Socket { .. } => Self::new(Reason::ListenersFailed, e.to_string()),
        }
    }
}

impl From<NetlinkError> for Failure {
    fn from(e: NetlinkError) -> Self {
        Self::new(Reason::RulesRejected, e.to_string())
    }
}
