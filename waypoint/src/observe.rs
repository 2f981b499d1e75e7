//! Access log and metrics of requests.

mod access;
mod baggage;
mod body;
mod destination;
mod excess;
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

use ambit_runtime::MetricsSettings;
use prometheus::{IntCounter, Registry};

#[cfg(feature = "testing")]
pub use baggage::baggage;
pub(crate) use body::BodyMeter;
pub(crate) use destination::Destination;
pub(crate) use flag::Flag;
pub(crate) use load::Load;
pub(crate) use metrics::{Gauges, Refusal};
pub(crate) use record::{ConnectionRecord, RETRY_LIMIT, RequestRecord};
pub(crate) use source::Source;

use metrics::Metrics;

/// Records every request and connection.
pub(crate) struct Observer {
    metrics: Metrics,
    load: Arc<Load>,
    access_log: AtomicBool,
    /// Requests that end from now on are ended by this waypoint.
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

    /// The gauges of requests in flight.
    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Whether successful requests are logged.
    pub(crate) fn set_access_log(&self, on: bool) {
        self.access_log.store(on, Ordering::Relaxed);
    }

    /// The drain deadline is over: the remaining requests are not ended by their clients.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Applies the metrics settings of the mesh.
    pub(crate) fn apply(&self, settings: &MetricsSettings) {
        self.metrics.apply(settings);
    }

    /// For metrics that other parts count.
    pub(crate) fn registry(&self) -> &Registry {
        self.metrics.registry()
    }

    /// Counts a connection that is ended so that other replicas get their share.
    pub(crate) fn moved(&self) {
        self.metrics.moved();
    }

    /// Counts requests that admission refused.
    pub(crate) fn overloads(&self) -> IntCounter {
        self.metrics.refusals(Refusal::Overloaded)
    }

    /// Counts a refused connection or request that has no record, since its destination is unknown.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.metrics.refused(refusal);
    }

    /// All metrics as text, with these gauges.
    ///
    /// # Errors
    /// When the metrics cannot be written as text.
    pub(crate) fn render(&self, gauges: &Gauges) -> Result<String, prometheus::Error> {
        self.metrics
            .render(gauges, self.load.connections(), self.load.in_flight())
    }
}

#[cfg(test)]
mod tests;
