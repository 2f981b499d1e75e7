//! Admission: the waypoint's limits, and how they are shared between clients.
//!
//! Each budget is shared: a client may have as much of it as is free ([`Shares`]). Past it, a connection is reset, and
//! a CONNECT or a request gets 503 with `x-ambit-reason: overloaded`; all are counted. Requests in flight continue.

use std::net::IpAddr;

use ambit_hbone::MemoryBudget;
use ambit_identity::SpiffeId;
use ambit_runtime::{Shares, memory_limit, raise_descriptor_limit};

/// The part of the container's memory that callers may fill. The rest is for configuration, metrics, tasks, and buffers
/// that are larger than their content.
const PART_OF_MEMORY: usize = 2;
/// Without a memory limit of the container.
const WITHOUT_LIMIT: usize = 1 << 30;

/// Cost of a caller's HBONE connection besides the bytes that wait on its streams: TLS, an incomplete frame, frames
/// that are collected for writing.
pub(crate) const HBONE_CONNECTION: usize = 128 << 10;
/// Cost of a caller's connection inside: its task, and the bytes read to detect the protocol.
pub(crate) const CONNECTION: usize = 16 << 10;
/// Additional cost of HTTP/2.
pub(crate) const HTTP2_CONNECTION: usize = 64 << 10;
/// Additional cost of a connection whose bytes are copied both ways.
pub(crate) const COPYING: usize = 32 << 10;
/// Cost of a request besides its head and the waiting bytes of the bodies: its tasks, and the bytes of one read.
pub(crate) const REQUEST: usize = 32 << 10;

/// The budgets of one waypoint.
pub(crate) struct Admission {
    /// TLS handshakes with unauthenticated peers, by address. Default 1024.
    pub(crate) handshakes: Shares<IpAddr>,
    /// HBONE connections, by the client's identity. Default 16,384, or half of the process' descriptors.
    pub(crate) connections: Shares<SpiffeId>,
    /// Clients' connections inside them, by identity. Default 65,536.
    pub(crate) streams: Shares<SpiffeId>,
    /// CONNECT requests that wait for configuration, by identity. Default 1024.
    pub(crate) waiting: Shares<SpiffeId>,
    /// Connections to endpoints for clients that have sent nothing, by the client's identity. Default 1024.
    pub(crate) silent: Shares<SpiffeId>,
    /// HTTP requests in flight, by identity. Default 32,768.
    pub(crate) requests: Shares<SpiffeId>,
    /// Bytes held, by the identity of their caller; includes the cost of the others. Default half of the container's
    /// memory limit, or 1 GiB without a limit.
    pub(crate) bytes: Shares<SpiffeId>,
    /// Memory that HBONE lends for wide windows; bytes that arrive in them count in `bytes`, too. Default: the same as
    /// `bytes`.
    pub(crate) windows: MemoryBudget,
}

/// The part of this process' memory that callers may fill.
fn memory_for_callers() -> usize {
    memory_limit().map_or(WITHOUT_LIMIT, |limit| limit / PART_OF_MEMORY)
}

impl Admission {
    /// The defaults, by this process' descriptors and memory; the soft limit of descriptors is raised.
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
