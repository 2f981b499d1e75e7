//! Connections that are refused without a destination.

use std::net::SocketAddr;

/// Why a connection or request was refused before its destination was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it was not redirected: its destination is the proxy's own port")]
    NoOriginalDestination,
    #[error("{0} is one of the proxy's own ports")]
    OwnPort(SocketAddr),
    #[error("CONNECT to {0}, which is not the destination address of the connection")]
    Authority(SocketAddr),
    #[error("not a supported request")]
    Request,
    #[error("TLS handshake failed")]
    Tls,
    #[error("too many TLS handshakes of the peer at once")]
    Handshakes,
    #[error("the control plane has not sent the workload of this pod")]
    UnknownWorkload,
    #[error("the peer has its share of the pod's connections")]
    PodLimit,
    #[error(
        "the pod has its share of the proxy's descriptors: raise the limit of open files or of memory, \
         or spread the pods"
    )]
    Descriptors,
}

impl Refusal {
    /// The label of the metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NoOriginalDestination => "no_original_destination",
            Self::OwnPort(_) => "own_port",
            Self::Authority(_) => "authority",
            Self::Request => "request",
            Self::Tls => "tls",
            Self::Handshakes => "handshakes",
            Self::UnknownWorkload => "unknown_workload",
            Self::PodLimit => "pod_limit",
            Self::Descriptors => "descriptors",
        }
    }
}
