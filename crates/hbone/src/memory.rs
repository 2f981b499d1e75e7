//! Memory that connections borrow for what is beyond the little that each of them may hold by right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_runtime::{Holder, Share, Shares};
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};

/// Bytes that all connections of a program together may borrow. Nobody may borrow more than is left for others ([`Shares`]). A
/// connection that is lent nothing goes on with small windows and buffers: slower, but it goes on.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares<Arc<str>>,
    denied: AtomicU64,
}

impl MemoryBudget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Inner {
            shares: Shares::new(bytes),
            denied: AtomicU64::new(0),
        }))
    }

    /// Bytes that are lent.
    pub fn lent(&self) -> usize {
        self.0.shares.taken()
    }

    /// How often there was nothing to lend.
    pub fn denied(&self) -> u64 {
        self.0.denied.load(Ordering::Relaxed)
    }

    /// Puts into a registry how much is lent, and how often there was nothing to lend; under the same names in every proxy.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(Metrics {
            budget: self.clone(),
            lent: IntGauge::new(
                "ambit_hbone_lent_bytes",
                "Memory lent for wide windows and large buffers",
            )?,
            denied: IntCounter::new(
                "ambit_hbone_loans_denied_total",
                "How often there was no memory to lend: the connection continues with small windows and \
                 buffers",
            )?,
            collecting: Mutex::new(()),
        }))
    }

    /// Who borrows: a pod, or a peer.
    pub fn borrower(&self, name: &Arc<str>) -> Borrower {
        Borrower {
            holder: self.0.shares.holder(name),
            budget: Arc::clone(&self.0),
        }
    }
}

/// The metrics of a budget, which are set when they are asked for.
struct Metrics {
    budget: MemoryBudget,
    lent: IntGauge,
    denied: IntCounter,
    collecting: Mutex<()>,
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.lent.desc(), self.denied.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.collecting.lock();
        self.lent
            .set(i64::try_from(self.budget.lent()).unwrap_or(i64::MAX));
        self.denied
            .inc_by(self.budget.denied().saturating_sub(self.denied.get()));
        [self.lent.collect(), self.denied.collect()].concat()
    }
}

/// One of those who share a [`MemoryBudget`].
#[derive(Debug, Clone)]
pub struct Borrower {
    holder: Arc<Holder<Arc<str>>>,
    budget: Arc<Inner>,
}

impl Borrower {
    /// Borrows so many bytes, if there are as many left; counts it if not.
    pub(crate) fn borrow(&self, bytes: usize) -> Option<Loan> {
        let share = self.holder.take_many(bytes);
        if share.is_none() {
            self.budget.denied.fetch_add(1, Ordering::Relaxed);
        }
        Some(Loan { _share: share? })
    }
}

/// Bytes that are lent, until it is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    _share: Share<Arc<str>>,
}
