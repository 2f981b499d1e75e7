//! The kinds of clients.

/// The kind of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Gets workloads, services and authorizations, and certificates for the pods of its node.
    Ztunnel,
    /// Gets the pods of its node to capture, and reports on them.
    Agent,
    /// Gets the configuration of its waypoint only, and certificates of its own identity; reports its load. It runs in
    /// a user's namespace; its pod determines which waypoint it is ([`PodInfo::waypoint`](super::interfaces::PodInfo::waypoint)).
    Waypoint,
    /// The operator: gets the load of waypoints, and nothing else.
    Operator,
}

impl Role {
    /// Those that open configuration streams.
    pub(super) const OF_PROXIES: [Self; 3] = [Self::Ztunnel, Self::Agent, Self::Waypoint];

    /// As a metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ztunnel => "ztunnel",
            Self::Agent => "agent",
            Self::Waypoint => "waypoint",
            Self::Operator => "operator",
        }
    }
}
