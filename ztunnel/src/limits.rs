//! The limits of one ztunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_runtime::{memory_limit, raise_descriptor_limit};

/// Memory that the part of the memory limit which connections get is divided by for each descriptor. Of two descriptors a connection may hold
/// 84 KiB by right: a window of 64 KiB and 16 KiB to be sent, and 4 KiB that are said again where the destination has denied plaintext (in
/// plaintext it is 36 KiB: 16 KiB for each direction, and these 4). Most hold nothing; nobody may have more than half of all.
const MEMORY_PER_DESCRIPTOR: usize = 32 << 10;

/// What one ztunnel takes on at most. Past a limit a new connection is reset and counted
/// (`ambit_ztunnel_connections_refused_total`); those that are open go on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the TCP connection to a destination; for an inbound one together with the wait for the workload: its client gives up after
    /// [`HboneConfig::response_timeout`](ambit_hbone::HboneConfig::response_timeout), which has to be longer. Default 10 s.
    pub connect_timeout: Duration,
    /// For reaching an endpoint while there are others to try, its proxy's answer to CONNECT included: one that is dead, or does not take
    /// the connection, must not cost the whole time. Long enough for a lost SYN to be sent again. Default 2 s.
    pub attempt_timeout: Duration,
    /// For the whole of reaching a replica of a waypoint, its answer to CONNECT included, while there are others to try. A waypoint
    /// answers at once, but for the 2 s that it waits for configuration under way. Default 3 s.
    pub waypoint_timeout: Duration,
    /// For the TLS handshake of an HBONE client, certificate included. Default 10 s.
    pub handshake_timeout: Duration,
    /// TLS handshakes of HBONE clients under way, in all pods together. From one address as many as are free. Default 1024.
    pub handshakes: usize,
    /// How long an inbound connection waits for the control plane to say which workload the pod is, before it is refused.
    /// Default 5 s.
    pub workload_timeout: Duration,
    /// How long a connection waits for the control plane's news of a destination that is not as it is known: it takes identities only, and
    /// its redirection has not been heard of; or nothing listens for HBONE there. Then it is as it is known. Default 5 s.
    pub skew_timeout: Duration,
    /// Endpoints of a service tried for one connection; of a waypoint, all that there are until `connect_timeout` is over. Default 3.
    pub connect_attempts: usize,
    /// Open connections of one pod, both directions together. Each peer (the pod itself, an identity, an address in plaintext) may have as
    /// many as are free: one alone has half. Default 32768.
    pub connections_per_pod: usize,
    /// Descriptors for proxied connections, two for each, and for what pods have to be served by. Each pod may have as many as are free.
    /// Default: eight tenths of RLIMIT_NOFILE, which is raised to its hard limit; where the container has a memory limit, one for 64 KiB of
    /// it at most.
    pub descriptors: usize,
    /// Bytes that connections may borrow in all for wide windows, large buffers and what can be said again; each pod and each peer may have as
    /// much as is free. Past it windows are 64 KiB, buffers 16 KiB and 4 KiB can be said again, and it is counted
    /// (`ambit_hbone_loans_denied_total`). Default: a quarter of the container's memory limit; 256 MiB where there is none.
    pub memory: usize,
    /// Used sockets that are kept for the next connection, for each pod and IP version. Default 64.
    pub idle_sockets_per_pod: usize,
    /// The same in all. Default: a tenth of RLIMIT_NOFILE.
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
    /// The defaults, with the limits of this process: that of descriptors, which is raised to its hard one, and that of memory.
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

    /// Takes `amount`, if that much is left.
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
    fn a_client_waits_for_longer_than_its_server_may_take() {
        let limits = Limits::default();
        assert!(limits.connect_timeout < ambit_hbone::HboneConfig::default().response_timeout);
        assert!(limits.workload_timeout < limits.connect_timeout);
    }

    #[test]
    fn a_budget_gives_no_more_than_it_has_and_takes_back() {
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
