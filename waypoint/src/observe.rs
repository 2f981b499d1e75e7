//! What people, Prometheus and the operator see of requests.

mod access;
mod flag;
mod load;
mod metrics;
mod record;
mod series;
mod source;
mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_identity::SpiffeId;

pub(crate) use flag::Flag;
pub(crate) use load::Load;
pub(crate) use metrics::{Gauges, Refusal};
pub(crate) use record::{ConnectionRecord, Destination, RETRY_LIMIT, RequestRecord};
pub(crate) use source::Source;
#[cfg(feature = "testing")]
pub use source::baggage;

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

    /// A client's connection: who it is by its certificate, where it comes from, and what its ztunnel says of it in the CONNECT's
    /// `baggage`.
    pub(crate) fn source(
        &self,
        identity: SpiffeId,
        address: SocketAddr,
        baggage: Option<&[u8]>,
    ) -> Arc<Source> {
        Source::new(&self.metrics, identity, address, baggage)
    }

    /// A request has come. What is found out of it is told to the record, and its drop is the end of the request.
    pub(crate) fn request<B>(
        self: &Arc<Self>,
        source: &Arc<Source>,
        destination: Destination,
        request: &http::Request<B>,
    ) -> RequestRecord {
        RequestRecord::new(self, source, destination, request)
    }

    /// A connection that is no HTTP has come; the record's drop is its end.
    pub(crate) fn connection(
        self: &Arc<Self>,
        source: &Arc<Source>,
        destination: Destination,
    ) -> ConnectionRecord {
        ConnectionRecord::new(self, source, destination)
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
