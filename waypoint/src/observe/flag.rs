//! Flags for requests that failed, in Envoy's terms where it has one.

/// Why a response is not the application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Flag {
    /// The response is the application's.
    #[default]
    None,
    /// Authorization denied the request.
    Denied,
    /// No endpoint is healthy.
    NoHealthyEndpoint,
    /// No connection to an endpoint was established.
    ConnectFailure,
    /// The endpoint's connection ended before the end of the response.
    UpstreamReset,
    /// Admission refused: the waypoint's limit is reached, or the caller's share of it.
    Overloaded,
    /// The endpoint's response was forwarded without a retry, since the service had its maximum of retries in flight.
    RetryLimit,
    /// The time for the request was over.
    Timeout,
    /// The client disconnected before the end of the response, or aborted a non-HTTP connection.
    ClientGone,
    /// The waypoint was stopping, or no longer served the destination, and ended the request at the drain deadline.
    Cut,
    /// The client violated the protocol, or sent something ambiguous.
    BadRequest,
    /// This waypoint does not serve the destination.
    NoRoute,
}

impl Flag {
    /// As in logs and metrics.
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
