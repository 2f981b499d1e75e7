//! Load and failures of a workload, from this proxy's own connections and requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a failed workload is avoided while there are others. The control plane reports a dead node only much later;
/// until then, a workload without connections would look like the best one.
const AVOIDED: Duration = Duration::from_secs(5);

/// Number of bad responses in a row that count as a failure: a workload that fails fast is always idle, and would get
/// most of the requests.
const BAD_RESPONSES: u32 = 5;

/// Connections or requests at a workload, over all of its services, and its last failure.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_use: AtomicUsize,
    /// Bad responses since the last good one.
    bad_responses: AtomicU32,
    failed: Mutex<Option<Instant>>,
}

impl Load {
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Whether it failed shortly before `now`.
    pub(crate) fn is_failing(&self, now: Instant) -> bool {
        let mut failed = self.failed.lock();
        if failed.is_some_and(|at| now.saturating_duration_since(at) >= AVOIDED) {
            *failed = None;
        }
        failed.is_some()
    }

    /// Forgets failures: an update of the workload has arrived.
    pub(crate) fn forgive(&self) {
        self.bad_responses.store(0, Ordering::Relaxed);
        *self.failed.lock() = None;
    }

    fn fail(&self) {
        *self.failed.lock() = Some(Instant::now());
    }
}

/// Counts a connection or a request towards its workload until it is dropped.
#[derive(Debug)]
pub struct InUse(Arc<Load>);

impl InUse {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        load.in_use.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }

    /// The workload was not reached.
    pub fn failed(&self) {
        self.0.fail();
    }

    /// The workload was reached, but responded that it cannot serve.
    pub fn responded_badly(&self) {
        if self.0.bad_responses.fetch_add(1, Ordering::Relaxed) + 1 >= BAD_RESPONSES {
            self.0.bad_responses.store(0, Ordering::Relaxed);
            self.0.fail();
        }
    }

    /// The workload was reached and served the request.
    pub fn succeeded(&self) {
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
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_expires_or_ends_with_an_update() {
        let load = Arc::<Load>::default();
        let now = Instant::now();
        InUse::new(&load).failed();
        assert!(load.is_failing(now));
        assert!(!load.is_failing(now + 2 * AVOIDED));
        InUse::new(&load).failed();
        InUse::new(&load).succeeded();
        assert!(!load.is_failing(now));
        assert_eq!(load.in_use(), 0);
    }

    #[test]
    fn bad_responses_count_only_in_a_row() {
        let load = Arc::<Load>::default();
        let one = InUse::new(&load);
        for _ in 0..BAD_RESPONSES - 1 {
            one.responded_badly();
        }
        one.succeeded();
        one.responded_badly();
        assert!(!load.is_failing(Instant::now()));
        for _ in 0..BAD_RESPONSES {
            one.responded_badly();
        }
        assert!(load.is_failing(Instant::now()));
    }
}
