//! The retry budget of a service.
//!
//! In an outage every request would be sent several times, which keeps the service down. So retries are limited to a
//! share of the requests in flight, as by Envoy's `retry_budget`
//! (`config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget`), with its defaults.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Maximum of retries, as a share of the requests in flight.
const PERCENT: u32 = 20;
/// This many retries are always allowed.
const LEAST: u32 = 3;

/// The retry budgets of all services, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryBudgets(Arc<Mutex<HashMap<Arc<str>, Weak<RetryBudget>>>>);

/// The retry budget of one service. It outlives changes of the service's configuration.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    key: Arc<str>,
    requests: AtomicU32,
    retries: AtomicU32,
    all: RetryBudgets,
}

impl RetryBudgets {
    pub(crate) fn of(&self, key: &Arc<str>) -> Arc<RetryBudget> {
        let mut budgets = self.0.lock();
        if let Some(known) = budgets.get(key).and_then(Weak::upgrade) {
            return known;
        }
        let budget = Arc::new(RetryBudget {
            key: Arc::clone(key),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            all: self.clone(),
        });
        budgets.insert(Arc::clone(key), Arc::downgrade(&budget));
        budget
    }
}

impl Drop for RetryBudget {
    fn drop(&mut self) {
        let mut budgets = self.all.0.lock();
        // Another one may have replaced it.
        if budgets
            .get(&self.key)
            .is_some_and(|known| known.strong_count() == 0)
        {
            budgets.remove(&self.key);
        }
    }
}

impl RetryBudget {
    /// A request, while it is in flight.
    pub(crate) fn request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn most(&self) -> u32 {
        (self.requests.load(Ordering::Relaxed) / (100 / PERCENT)).max(LEAST)
    }

    /// Whether a retry is allowed now.
    pub(crate) fn has_room(&self) -> bool {
        self.retries.load(Ordering::Relaxed) < self.most()
    }

    /// A retry, while it is in progress; `None` if the budget is used up.
    pub(crate) fn retry(self: &Arc<Self>) -> Option<Retrying> {
        let most = self.most();
        let retry = |retries: u32| (retries < most).then_some(retries + 1);
        self.retries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, retry)
            .ok()?;
        Some(Retrying(Arc::clone(self)))
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<RetryBudget>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A retry in progress.
#[derive(Debug)]
pub(crate) struct Retrying(Arc<RetryBudget>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_three_at_least() {
        let budgets = RetryBudgets::default();
        let budget = budgets.of(&"shop/server".into());
        let take = |most| (0..most).map_while(|_| budget.retry()).collect::<Vec<_>>();
        assert_eq!(take(100).len(), 3);
        let requests: Vec<_> = (0..50).map(|_| budget.request()).collect();
        let retries = take(100);
        assert_eq!(retries.len(), 10);
        assert!(!budget.has_room());
        drop(requests);
        // Retries in progress continue.
        drop(retries);
        assert!(budget.has_room());
    }

    #[test]
    fn all_who_call_a_service_share_its_budget_and_it_is_forgotten_with_them() {
        let budgets = RetryBudgets::default();
        let (one, other) = (budgets.of(&"a".into()), budgets.of(&"a".into()));
        assert!(Arc::ptr_eq(&one, &other));
        drop((one, other));
        assert!(budgets.0.lock().is_empty());
    }
}
