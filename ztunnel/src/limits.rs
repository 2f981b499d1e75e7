//! The limits of one ztunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_runtime::raise_descriptor_limit;

/// What one ztunnel takes on at most. Past a limit a new connection is reset and counted
/// (`ambit_ztunnel_connections_refused_total`); those that are open go on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the TCP connection to a destination. Default 10 s.
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
    /// Endpoints of a service tried for one connection; of a waypoint, all that there are until `connect_timeout` is over. Default 3.
    pub connect_attempts: usize,
    /// Open connections of one pod, both directions together. Default 16384.
    pub connections_per_pod: usize,
    /// Descriptors for proxied connections, two for each, and for what pods have to be served by. Default: eight tenths of
    /// RLIMIT_NOFILE, which is raised to its hard limit.
    pub descriptors: usize,
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
            connect_attempts: 3,
            connections_per_pod: 16_384,
            descriptors: 800,
            idle_sockets_per_pod: 64,
            idle_sockets: 100,
        }
    }
}

impl Limits {
    /// The defaults, with the descriptor budget of this process, whose soft limit is raised to the hard one.
    pub fn of_process() -> Self {
        let tenth = raise_descriptor_limit() / 10;
        Self {
            descriptors: tenth * 8,
            idle_sockets: tenth,
            ..Self::default()
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
    fn a_budget_gives_no_more_than_it_has_and_takes_back() {
        let budget = Budget::new(5);
        let first = budget.take(3).unwrap();
        assert!(budget.take(3).is_none());
        let second = budget.take(2).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(3).is_some());
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
