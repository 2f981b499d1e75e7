//! The limits of one ztunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_runtime::{memory_limit, raise_descriptor_limit};

/// Memory per descriptor: this divides the share of the memory limit that connections get. With two descriptors, a
/// connection may use 84 KiB that are reserved for it: a window of 64 KiB, 16 KiB to be sent, and 4 KiB to be repeated
/// after a denied plaintext attempt (in plaintext 36 KiB: 16 KiB for each direction, and these 4). Most connections use
/// none of it; no pod or peer may have more than half of all.
const MEMORY_PER_DESCRIPTOR: usize = 32 << 10;

/// The limits of one ztunnel. Past a limit, a new connection is reset and counted
/// (`ambit_ztunnel_connections_refused_total`); open connections continue.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time for the TCP connection to a destination; for an inbound one including the wait for the workload. The client
    /// gives up after [`HboneConfig::response_timeout`](ambit_hbone::HboneConfig::response_timeout), which has to be
    /// longer. Default 10 s.
    pub connect_timeout: Duration,
    /// Time to reach an endpoint while there are others to try, including its proxy's response to CONNECT: a dead
    /// endpoint, or one that does not accept, must not use up the whole time. Long enough for a lost SYN to be sent
    /// again. Default 2 s.
    pub attempt_timeout: Duration,
    /// Time to reach a replica of a waypoint while there are others to try, including its response to CONNECT. A
    /// waypoint responds at once, except for the 2 s that it waits for configuration. Default 3 s.
    pub waypoint_timeout: Duration,
    /// Time for the TLS handshake of an HBONE client, including its certificate. Default 10 s.
    pub handshake_timeout: Duration,
    /// TLS handshakes of HBONE clients at once, in all pods together. One address may have as many as are free. Default
    /// 1024.
    pub handshakes: usize,
    /// How long an inbound connection waits for the control plane to send the workload of the pod, before it is
    /// refused. Default 5 s.
    pub workload_timeout: Duration,
    /// How long a connection waits for an update about a destination that differs from its record: it accepts
    /// identities only and its capture has not been received; or its HBONE port is closed. After that the record is
    /// used. Default 5 s.
    pub skew_timeout: Duration,
    /// How long a connection that a guard has denied waits for an update that leads it through the waypoint, or for the
    /// guard to go. Default 2 s.
    pub guard_timeout: Duration,
    /// Connections of one pod that wait so at once; what is denied past it fails at once. Default 1024.
    pub guarded_per_pod: usize,
    /// Attempts (endpoints of a service) for one connection; for a waypoint, all replicas until `connect_timeout` is
    /// over. Default 3.
    pub connect_attempts: usize,
    /// Open connections of one pod, both directions together. Each peer (the pod itself, an identity, an address in
    /// plaintext) may have as many as are free: one alone has half. Default 32768.
    pub connections_per_pod: usize,
    /// Descriptors for proxied connections, two for each, and for serving pods. Each pod may have as many as are free.
    /// Default: eight tenths of RLIMIT_NOFILE, which is raised to its hard limit; with a memory limit at most one per
    /// 64 KiB of it.
    pub descriptors: usize,
    /// Bytes that connections may borrow in total for wide windows, large buffers and repeatable data; each pod and
    /// each peer may have as many as are free. Past it, windows are 64 KiB, buffers 16 KiB and repeatable data 4 KiB,
    /// and the refused loan is counted (`ambit_hbone_loans_denied_total`). Default: a quarter of the container's memory
    /// limit; 256 MiB without a limit.
    pub memory: usize,
    /// Used sockets cached for the next connection, for each pod and IP version. Default 64.
    pub idle_sockets_per_pod: usize,
    /// Used sockets cached in total. Default: a tenth of RLIMIT_NOFILE.
    pub idle_sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            waypoint_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(10),
            handshakes: 1024,
            workload_timeout: Duration::from_secs(5),
            skew_timeout: ambit_mesh::SKEW_TIMEOUT,
            guard_timeout: ambit_mesh::GUARD_TIMEOUT,
            guarded_per_pod: ambit_mesh::MOST_GUARDED,
            connect_attempts: 3,
            connections_per_pod: 32_768,
            descriptors: 800,
            memory: 256 << 20,
            idle_sockets_per_pod: 64,
            idle_sockets: 100,
        }
    }
}

impl Limits {
    /// The defaults, with the limits of this process: that of descriptors, raised to the hard limit, and that of
    /// memory.
    pub fn of_process() -> Self {
        let tenth = raise_descriptor_limit() / 10;
        let limits = Self {
            descriptors: tenth * 8,
            idle_sockets: tenth,
            ..Self::default()
        };
        match memory_limit() {
            Some(memory) => Self {
                descriptors: limits.descriptors.min(memory / 2 / MEMORY_PER_DESCRIPTOR),
                memory: memory / 4,
                ..limits
            },
            None => limits,
        }
    }
}

/// Counts something against a limit.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// One place in a [`Budget`].
#[derive(Debug)]
pub(crate) struct BudgetPermit {
    used: Arc<AtomicUsize>,
    amount: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// Takes `amount` if that much is free.
    pub(crate) fn take(&self, amount: usize) -> Option<BudgetPermit> {
        let fits = |used: usize| used.checked_add(amount).filter(|sum| *sum <= self.limit);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .ok()?;
        Some(BudgetPermit {
            used: Arc::clone(&self.used),
            amount,
        })
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

impl Drop for BudgetPermit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_timeout_exceeds_server_timeout() {
        let limits = Limits::default();
        assert!(limits.connect_timeout < ambit_hbone::HboneConfig::default().response_timeout);
        assert!(limits.workload_timeout < limits.connect_timeout);
    }

    #[test]
    fn budget_is_bounded_and_returns() {
        let budget = Budget::new(5);
        let first = budget.take(3).unwrap();
        assert!(budget.take(3).is_none());
        let second = budget.take(2).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(3).is_some());
        drop(second);
        assert!(budget.take(6).is_none());
    }
}
