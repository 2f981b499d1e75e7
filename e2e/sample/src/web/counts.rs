//! What came.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_e2e::sample::WebCounts;

/// Kinds of requests that are told apart.
const KINDS: usize = 1000;

/// Counts that every request adds to.
#[derive(Default)]
pub(super) struct Counts {
    counts: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: WebCounts,
    /// Requests for what fails every third time.
    flaky: u64,
}

impl Counts {
    pub(super) fn request(&self, method: &str, path: &str) {
        let mut inner = self.lock();
        inner.counts.requests += 1;
        let kind = format!("{method} {path}");
        if inner.counts.seen.len() < KINDS || inner.counts.seen.contains_key(&kind) {
            *inner.counts.seen.entry(kind).or_default() += 1;
        }
    }

    /// Whether this is the third time, the sixth, …
    pub(super) fn flakes(&self) -> bool {
        let mut inner = self.lock();
        inner.flaky += 1;
        let flakes = inner.flaky.is_multiple_of(3);
        inner.counts.flaked += u64::from(flakes);
        flakes
    }

    pub(super) fn cancelled(&self) {
        self.lock().counts.cancelled += 1;
    }

    pub(super) fn read(&self) -> WebCounts {
        self.lock().counts.clone()
    }

    /// The counts stay right even if another thread panicked between two of them.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
