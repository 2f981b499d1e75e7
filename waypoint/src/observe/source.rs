//! The source of a request, as far as it is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_mesh::{Client, Via};

use super::Observer;
use super::baggage::{SourceWorkload, member};
use super::metrics::Metrics;
use super::series::SourceSeries;

/// The other end of a client's connection.
#[derive(Debug)]
pub(crate) struct Source {
    /// Proven by its certificate.
    pub(crate) identity: SpiffeId,
    pub(crate) address: SocketAddr,
    /// The workload, as its ztunnel names it.
    pub(super) workload: SourceWorkload,
    pub(super) series: Arc<SourceSeries>,
    /// Its node and zone, as its ztunnel names them. Empty: unknown.
    node: String,
    zone: String,
    /// Microseconds of all its requests that have ended, together.
    busy: AtomicU64,
}

impl Observer {
    /// A client's connection: its identity by certificate, its address, and its workload from the `baggage` of the
    /// CONNECT.
    pub(crate) fn source(
        &self,
        identity: SpiffeId,
        address: SocketAddr,
        baggage: Option<&[u8]>,
    ) -> Arc<Source> {
        Source::new(&self.metrics, identity, address, baggage)
    }
}

impl Source {
    fn new(metrics: &Metrics, identity: SpiffeId, address: SocketAddr, baggage: Option<&[u8]>) -> Arc<Self> {
        let workload = SourceWorkload::parse(baggage.unwrap_or_default());
        Arc::new(Self {
            series: metrics.source(&identity, &workload),
            identity,
            address,
            workload,
            node: member(baggage.unwrap_or_default(), "k8s.node.name"),
            zone: member(baggage.unwrap_or_default(), "cloud.availability_zone"),
            busy: AtomicU64::new(0),
        })
    }

    /// The client for whom an endpoint is chosen.
    pub(crate) fn client(&self) -> Client<'_> {
        Client {
            address: Some(self.address.ip()),
            node: &self.node,
            zone: &self.zone,
            via: Via::default(),
        }
    }

    /// A request has ended, which took so long.
    pub(super) fn was_busy(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.busy.fetch_add(micros, Ordering::Relaxed);
    }

    /// Requests in flight on the connection, in thousandths and at least one: the mean over its `age`.
    pub(crate) fn carries(&self, age: Duration) -> u64 {
        let busy = u128::from(self.busy.load(Ordering::Relaxed)) * 1000;
        let mean = busy.checked_div(age.as_micros()).unwrap_or_default();
        u64::try_from(mean).unwrap_or(u64::MAX).max(1)
    }

    /// The namespace is that of the certificate, whatever the baggage has.
    pub(crate) fn namespace(&self) -> &str {
        self.identity.namespace()
    }
}
