//! One non-HTTP connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_hbone::Meter;
use ambit_policy::Decision;

use super::super::access::{self, Line};
use super::super::load::RequestInFlight;
use super::super::metrics::Totals;
use super::super::outcome::{CUT, Outcome};
use super::super::{Destination, Flag, Observer, Source};
use crate::state::{Endpoint, Workload};

/// A non-HTTP connection, until this is dropped. It counts as a request in flight until then.
pub(crate) struct ConnectionRecord {
    observer: Arc<Observer>,
    source: Arc<Source>,
    destination: Destination,
    in_flight: RequestInFlight,
    endpoint: Option<(Arc<Workload>, SocketAddr)>,
    outcome: Outcome,
    route: Option<Arc<str>>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Set once the destination is known.
    totals: Option<Totals>,
}

impl Observer {
    /// A non-HTTP connection has arrived; dropping the record is its end.
    pub(crate) fn connection(
        self: &Arc<Self>,
        source: &Arc<Source>,
        destination: Destination,
    ) -> ConnectionRecord {
        ConnectionRecord::new(self, source, destination)
    }
}

impl ConnectionRecord {
    fn new(observer: &Arc<Observer>, source: &Arc<Source>, destination: Destination) -> Self {
        Self {
            in_flight: observer.load.request(),
            observer: Arc::clone(observer),
            source: Arc::clone(source),
            destination,
            endpoint: None,
            outcome: Outcome::default(),
            route: None,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            totals: None,
        }
    }

    /// A route governs it, by this rule.
    pub(crate) fn governed_by(&mut self, rule: &Arc<str>) {
        self.route = Some(Arc::clone(rule));
    }

    /// A route sends it to this destination.
    pub(crate) fn routed(&mut self, destination: Destination) {
        self.destination = destination;
    }

    /// As for requests.
    pub(crate) fn decided(&mut self, decision: &Decision) {
        self.outcome
            .decided(&self.observer.metrics, &self.destination, decision);
    }

    /// Why it was ended by neither of its two ends.
    pub(crate) fn failed(&mut self, flag: Flag, reason: impl Into<String>) {
        self.outcome.failed(flag, reason);
    }

    /// The client aborted it.
    pub(crate) fn left(&mut self, reason: impl Into<String>) {
        self.outcome.left(reason);
    }

    /// It is connected to this endpoint.
    pub(crate) fn opened(&mut self, endpoint: &Endpoint) {
        self.endpoint = Some((Arc::clone(&endpoint.workload), endpoint.target));
        let metrics = &self.observer.metrics;
        let workload = Some(&*endpoint.workload);
        self.totals = Some(metrics.tcp_opened(&self.source.series, &self.destination, workload));
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        if self.observer.is_cut() && self.outcome.flag == Flag::None {
            self.failed(Flag::Cut, CUT);
        }
        let endpoint = self
            .endpoint
            .as_ref()
            .map(|(workload, target)| (&**workload, *target));
        let metrics = &self.observer.metrics;
        let workload = endpoint.map(|(workload, _)| workload);
        if self.totals.is_none() {
            // Opened and closed must agree.
            metrics.tcp_opened(&self.source.series, &self.destination, workload);
        }
        metrics.tcp_closed(
            &self.source.series,
            &self.destination,
            workload,
            self.outcome.flag,
        );
        if self.outcome.is_notable() || self.observer.access_log.load(Ordering::Relaxed) {
            access::log(&Line {
                source: &self.source,
                destination: &self.destination,
                endpoint,
                called: None,
                protocol: "tcp",
                method: None,
                path: None,
                status: None,
                grpc_status: None,
                route: self.route.as_deref(),
                outcome: &self.outcome,
                retries: 0,
                bytes_in: self.received.load(Ordering::Relaxed),
                bytes_out: self.sent.load(Ordering::Relaxed),
                duration: self.in_flight.elapsed(),
                trace_id: None,
            });
        }
    }
}

/// Forward is from the source to the destination.
impl Meter for ConnectionRecord {
    fn forward(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        if let Some(totals) = &self.totals {
            totals.received.inc_by(bytes);
        }
    }

    fn backward(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(totals) = &self.totals {
            totals.sent.inc_by(bytes);
        }
    }
}
