//! What the waypoint takes on at once, and how it is shared among those who ask.
//!
//! Each budget is shared by who asks: one may hold as much of it as is free ([`Shares`]). Past it a connection is reset, a CONNECT and a
//! request are answered with 503 and `x-ambit-reason: overloaded`; all are counted. What is under way goes on.

use std::net::IpAddr;

use ambit_hbone::MemoryBudget;
use ambit_identity::SpiffeId;
use ambit_runtime::{Shares, memory_limit, raise_descriptor_limit};

/// Of the container's memory, the part that callers may fill. What else there is (configuration, metrics, tasks, buffers that are larger
/// than what is in them) has the rest.
const PART_OF_MEMORY: usize = 2;
/// Where the container has no limit.
const WITHOUT_LIMIT: usize = 1 << 30;

/// What a caller's HBONE connection costs beside the bytes that wait on its streams: TLS, a frame that has not come whole, frames that are
/// gathered to be written.
pub(crate) const HBONE_CONNECTION: usize = 128 << 10;
/// What a caller's connection inside costs: its task, and what is read to learn the protocol.
pub(crate) const CONNECTION: usize = 16 << 10;
/// What it costs besides where it is HTTP/2.
pub(crate) const HTTP2_CONNECTION: usize = 64 << 10;
/// What it costs besides where its bytes are copied both ways.
pub(crate) const COPYING: usize = 32 << 10;
/// What a request costs beside its head and what waits of the bodies: its tasks, and what is read at once.
pub(crate) const REQUEST: usize = 32 << 10;

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
    /// Connections to endpoints for clients that have sent nothing, by the client's identity. Default 1024.
    pub(crate) silent: Shares<SpiffeId>,
    /// HTTP requests in flight, by identity. Default 32,768.
    pub(crate) requests: Shares<SpiffeId>,
    /// Bytes that wait or are kept, by the identity of the caller for whom: all that the others hold, too. Default half of the container's
    /// memory limit, or 1 GiB where there is none.
    pub(crate) bytes: Shares<SpiffeId>,
    /// What HBONE lends for windows that are wide; what arrives in them is in `bytes`, too. Default: as much.
    pub(crate) windows: MemoryBudget,
}

/// What callers may fill of this process' memory.
fn memory_for_callers() -> usize {
    memory_limit().map_or(WITHOUT_LIMIT, |limit| limit / PART_OF_MEMORY)
}

impl Admission {
    /// The defaults, for as many descriptors and as much memory as this process may have; the soft limit of descriptors is raised.
    pub(crate) fn of_process() -> Self {
        Self {
            handshakes: Shares::new(1024),
            connections: Shares::new(16_384.min(raise_descriptor_limit() / 2)),
            streams: Shares::new(65_536),
            waiting: Shares::new(1024),
            silent: Shares::new(1024),
            requests: Shares::new(32_768),
            bytes: Shares::new(memory_for_callers()),
            windows: MemoryBudget::new(memory_for_callers()),
        }
    }
}
