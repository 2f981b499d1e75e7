//! What this ztunnel knows of an endpoint from its own connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// An endpoint that was not reached is avoided for so long, where there are others. The control plane hears of a dead node only
/// after much longer, and until then an endpoint without connections would look like the best one.
const AVOIDED: Duration = Duration::from_secs(5);

/// Connections to an endpoint, and whether the last attempts failed. Smaller is better.
#[derive(Debug, Default)]
pub(super) struct Load {
    connections: AtomicUsize,
    failed: Mutex<Option<Instant>>,
}

impl Load {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether it was not reached a short time before `now`.
    pub(super) fn is_failing(&self, now: Instant) -> bool {
        let mut failed = self.failed.lock();
        if failed.is_some_and(|at| now.saturating_duration_since(at) >= AVOIDED) {
            *failed = None;
        }
        failed.is_some()
    }

    /// Forgets failures: there is news of the endpoint.
    pub(super) fn forgive(&self) {
        *self.failed.lock() = None;
    }
}

/// Counts a connection towards its endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Load>);

impl InUse {
    pub(super) fn new(load: &Arc<Load>) -> Self {
        load.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }

    /// The endpoint was not reached.
    pub(crate) fn failed(&self) {
        *self.0.failed.lock() = Some(Instant::now());
    }

    /// The endpoint was reached.
    pub(crate) fn succeeded(&self) {
        self.0.forgive();
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_for_a_while_or_until_there_is_news() {
        let load = Arc::<Load>::default();
        let now = Instant::now();
        InUse::new(&load).failed();
        assert!(load.is_failing(now));
        assert!(!load.is_failing(now + 2 * AVOIDED));
        InUse::new(&load).failed();
        InUse::new(&load).succeeded();
        assert!(!load.is_failing(now));
        assert_eq!(load.connections(), 0);
    }
}
