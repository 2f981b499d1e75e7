//! What keeps a pod from being captured, in words that end up in a status and in a CNI error.

use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use std::fmt;

/// CamelCase reasons, for conditions, annotations and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The runtime has no running sandbox for the pod (yet); its CNI call will bring one.
    SandboxNotFound,
    /// No ztunnel is connected to this agent.
    NoZtunnel,
    /// A ztunnel is connected and has not answered in time.
    ZtunnelSilent,
    /// The ztunnel would not serve the pod.
    ZtunnelRefused,
    /// The container runtime does not answer.
    RuntimeUnavailable,
    /// The pod's network namespace cannot be opened or entered.
    NetnsUnreachable,
    /// The pod is in the host's network namespace.
    HostNetwork,
    /// The application listens on 15001, 15006, 15008 or the loopback's 15009, or a ztunnel that is not connected holds the listeners.
    PortInUse,
    /// The listening sockets could not be made.
    ListenersFailed,
    /// The kernel refused the nftables rules or the route.
    RulesRejected,
    /// Nothing is wrong; the message says what is being done.
    InProgress,
    /// The control plane has sent no record of the pod.
    PodUnknown,
    /// The agent stops.
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

    /// Whether it is a matter of waiting rather than something that went wrong.
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
    /// What kind.
    pub reason: Reason,
    /// What exactly, and what can be done.
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
