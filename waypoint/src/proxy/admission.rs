//! What the waypoint takes on at once, and how it is shared among those who ask.
//!
//! Each budget is shared by who asks: one may hold as much of it as is free ([`Shares`]). Past it a connection is reset, a CONNECT and a
//! request are answered with 503 and `x-ambit-reason: overloaded`; all are counted. What is under way goes on.

use std::net::IpAddr;

use ambit_identity::SpiffeId;
use ambit_runtime::{Shares, raise_descriptor_limit};

/// The budgets of one waypoint.
pub(crate) struct Admission {
    /// TLS handshakes with those of whom nothing is known, by address. Default 1024.
    pub(crate) handshakes: Shares<IpAddr>,
    /// HBONE connections, by the client's identity. Default 16,384, or half of the descriptors that the process may have.
    pub(crate) connections: Shares<SpiffeId>,
    /// Clients' connections inside them, by identity. Default 65,536.
    pub(crate) streams: Shares<SpiffeId>,
    /// CONNECT requests that wait for configuration under way, by identity. Default 1024.
    pub(crate) waiting: Shares<SpiffeId>,
    /// HTTP requests in flight, by identity. Default 32,768.
    pub(crate) requests: Shares<SpiffeId>,
}

impl Admission {
    /// The defaults, for as many descriptors as this process may have; the soft limit is raised.
    pub(crate) fn of_process() -> Self {
        Self {
            handshakes: Shares::new(1024),
            connections: Shares::new(16_384.min(raise_descriptor_limit() / 2)),
            streams: Shares::new(65_536),
            waiting: Shares::new(1024),
            requests: Shares::new(32_768),
        }
    }
}
