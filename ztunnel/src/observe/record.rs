//! One proxied connection: its metrics, and the line in the access log when it ends.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ambit_hbone::Meter;
use ambit_identity::SpiffeId;
use ambit_runtime::log_permit;

use super::metrics::{Metrics, Totals};
use crate::pod::PodInfo;
use crate::state::Service;
use ambit_mesh::Workload;

/// Which ztunnel reports: that of the source or of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reporter {
    Source,
    Destination,
}

impl Reporter {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// How a connection ended, in Istio's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    None,
    Denied,
    NotConnected,
}

impl Flag {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::NotConnected => "CONNECT",
        }
    }
}

/// One end of a connection, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The identity proven by its certificate.
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) workload: Option<Arc<Workload>>,
    /// The agent's record, if the pod is on this node.
    pub(crate) pod: Option<Arc<PodInfo>>,
}

impl Peer {
    fn name(&self) -> Option<&str> {
        let of_pod = self.pod.as_deref().map(|pod| pod.identity.name.as_str());
        of_pod.or(self.workload.as_deref().map(|workload| workload.name.as_str()))
    }

    fn namespace(&self) -> Option<&str> {
        let of_pod = self.pod.as_deref().map(|pod| pod.identity.namespace.as_str());
        of_pod.or(self
            .workload
            .as_deref()
            .map(|workload| workload.namespace.as_str()))
    }
}

/// Source and destination of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) reporter: Reporter,
    pub(crate) source: Peer,
    pub(crate) destination: Peer,
    /// The CONNECT authority, for HBONE.
    pub(crate) hbone: Option<SocketAddr>,
    pub(crate) service: Option<Arc<Service>>,
}

impl Traffic {
    pub(super) fn is_secure(&self) -> bool {
        self.hbone.is_some()
    }
}

/// Counts a connection from its beginning. [`Record::end`], [`Record::fail`] and [`Record::deny`] end it, and so does
/// dropping it.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    access_log: bool,
    traffic: Traffic,
    start: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    totals: Totals,
    ended: bool,
}

impl Record {
    /// `access_log`: the connection is logged when it ends.
    pub(crate) fn open(metrics: &Arc<Metrics>, access_log: bool, traffic: Traffic) -> Self {
        let totals = metrics.opened(&traffic);
        Self {
            metrics: Arc::clone(metrics),
            access_log,
            traffic,
            start: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            totals,
            ended: false,
        }
    }

    /// Both sides have ended, or one has failed: a reset by a peer counts as an end.
    pub(crate) fn end(mut self, error: Option<&dyn Display>) {
        self.close(Flag::None, error, false);
    }

    /// The destination was not reached.
    pub(crate) fn fail(mut self, reason: &'static str, error: &dyn Display) {
        self.metrics.failed(&self.traffic, reason);
        self.close(Flag::NotConnected, Some(error), true);
    }

    /// Authorization denied the connection, at once or after a change of policy.
    pub(crate) fn deny(mut self, decision: &ambit_policy::Decision) {
        let destination = &self.traffic.destination;
        let policy = decision.reason.policy().unwrap_or("none");
        self.metrics
            .denied(policy, destination.namespace().unwrap_or("unknown"));
        let source = match &self.traffic.source.identity {
            Some(identity) => identity.to_string(),
            None => "unauthenticated".to_owned(),
        };
        let target = destination
            .identity
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let error = format!("policy rejection: {}: {source} to {target}", decision.reason);
        self.close(Flag::Denied, Some(&error), true);
    }

    fn close(&mut self, flag: Flag, error: Option<&dyn Display>, notable: bool) {
        self.ended = true;
        self.metrics.closed(&self.traffic, flag);
        // Denials and failures are logged even without an access log, since they concern the operator of the mesh; in
        // that case only some of many from one source.
        let source = || self.traffic.source.address.ip().to_string();
        if self.access_log || (notable && log_permit(&source(), flag.name())) {
            self.log(error, notable);
        }
    }

    fn log(&self, error: Option<&dyn Display>, notable: bool) {
        let Traffic {
            reporter,
            source,
            destination,
            hbone,
            service,
        } = &self.traffic;
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "access",
                    parent: None,
                    $level,
                    src.addr = %source.address,
                    src.workload = source.name(),
                    src.namespace = source.namespace(),
                    src.identity = source.identity.as_ref().map(display),
                    dst.addr = %destination.address,
                    dst.hbone_addr = hbone.as_ref().map(display),
                    dst.service = service.as_deref().map(|service| service.hostname.as_str()),
                    dst.workload = destination.name(),
                    dst.namespace = destination.namespace(),
                    dst.identity = destination.identity.as_ref().filter(|_| hbone.is_some()).map(display),
                    direction = reporter.direction(),
                    bytes_sent = self.sent.load(Ordering::Relaxed),
                    bytes_recv = self.received.load(Ordering::Relaxed),
                    duration = %format_args!("{}ms", self.start.elapsed().as_millis()),
                    error = error.map(display),
                    "connection complete"
                )
            };
        }
        match notable {
            false => line!(tracing::Level::INFO),
            true => line!(tracing::Level::WARN),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.close(
                Flag::None,
                Some(&"ended by the proxy: the pod has ended, or the drain deadline has passed"),
                true,
            );
        }
    }
}

/// Forward is from the source to the destination.
impl Meter for Record {
    fn forward(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.totals.received.inc_by(bytes);
    }

    fn backward(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.totals.sent.inc_by(bytes);
    }
}

/// For copies whose first argument is the destination.
pub(crate) struct Flipped<'a>(pub(crate) &'a Record);

impl Meter for Flipped<'_> {
    fn forward(&self, bytes: u64) {
        self.0.backward(bytes);
    }

    fn backward(&self, bytes: u64) {
        self.0.forward(bytes);
    }
}

#[cfg(test)]
mod tests;
