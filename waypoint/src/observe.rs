//! What people, Prometheus and the operator see of requests.

mod access;
mod baggage;
mod destination;
mod flag;
mod load;
mod metrics;
mod outcome;
mod protocol;
mod record;
mod series;
mod source;
mod trace;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_hbone::MemoryBudget;
use prometheus::IntCounter;

#[cfg(feature = "testing")]
pub use baggage::baggage;
pub(crate) use destination::Destination;
pub(crate) use flag::Flag;
pub(crate) use load::Load;
pub(crate) use metrics::{Gauges, Refusal};
pub(crate) use record::{ConnectionRecord, RETRY_LIMIT, RequestRecord};
pub(crate) use source::Source;

use metrics::Metrics;

/// Takes note of every request and connection.
pub(crate) struct Observer {
    metrics: Metrics,
    load: Arc<Load>,
    access_log: AtomicBool,
    /// What ends from now on is ended by this waypoint.
    cut: AtomicBool,
}

impl Observer {
    /// # Errors
    /// Never, as long as the metrics' names are legal and differ.
    pub(crate) fn new() -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            metrics: Metrics::new()?,
            load: Arc::default(),
            access_log: AtomicBool::new(true),
            cut: AtomicBool::new(false),
        }))
    }

    /// What is in flight.
    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Whether requests are logged that nothing is wrong with.
    pub(crate) fn set_access_log(&self, on: bool) {
        self.access_log.store(on, Ordering::Relaxed);
    }

    /// The drain deadline is over: what is left is not ended by its clients.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// What HBONE lends is in the metrics, too.
    ///
    /// # Errors
    /// When a budget's metrics are there already.
    pub(crate) fn include(&self, memory: &MemoryBudget) -> Result<(), prometheus::Error> {
        self.metrics.include(memory)
    }

    /// Counts what is not served as there is no room for it.
    pub(crate) fn overloads(&self) -> IntCounter {
        self.metrics.refusals(Refusal::Overloaded)
    }

    /// Something was not served that has no record: a connection or a request whose destination is not known.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.metrics.refused(refusal);
    }

    /// All metrics as text, with these gauges.
    ///
    /// # Errors
    /// When they cannot be written as text.
    pub(crate) fn render(&self, gauges: &Gauges) -> Result<String, prometheus::Error> {
        self.metrics
            .render(gauges, self.load.connections(), self.load.in_flight())
    }
}

#[cfg(test)]
mod tests;
