//! The source of a request, as far as it is known.

use std::net::SocketAddr;
use std::sync::Arc;

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

    /// The namespace is that of the certificate, whatever the baggage has.
    pub(crate) fn namespace(&self) -> &str {
        self.identity.namespace()
    }
}
