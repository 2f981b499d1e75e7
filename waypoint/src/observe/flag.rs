//! How a request ended, where it did not end well, in Envoy's short words as far as it has one.

/// Why an answer is not the application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Flag {
    /// It is, or nothing was wrong.
    #[default]
    None,
    /// Authorization refused it.
    Denied,
    /// No endpoint is healthy.
    NoHealthyEndpoint,
    /// No connection to an endpoint came about.
    ConnectFailure,
    /// The endpoint's connection ended before the answer had.
    UpstreamReset,
    /// The waypoint has as much to do as it takes on, or the caller more of it than its share.
    Overloaded,
    /// The endpoint's answer was passed on, as the service had as many retries under way as it may have.
    RetryLimit,
    /// The time for the request was over.
    Timeout,
    /// The client went away before the answer had ended, or broke off a connection that is no HTTP.
    ClientGone,
    /// The waypoint had to go, or served the destination no longer, and ended what was left at the drain deadline.
    Cut,
    /// The client broke the protocol, or sent what has no one meaning.
    BadRequest,
    /// This waypoint does not serve the destination.
    NoRoute,
}

impl Flag {
    /// As logs and metrics have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::NoHealthyEndpoint => "UH",
            Self::ConnectFailure => "UF",
            Self::UpstreamReset => "UC",
            Self::Overloaded => "UO",
            Self::RetryLimit => "URX",
            Self::Timeout => "UT",
            Self::ClientGone => "DC",
            Self::Cut => "LR",
            Self::BadRequest => "DPE",
            Self::NoRoute => "NR",
        }
    }
}
