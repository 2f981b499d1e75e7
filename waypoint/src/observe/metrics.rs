//! Prometheus metrics: Istio's standard ones under their own names and labels, and ours under `ambit_`.

use ambit_identity::SpiffeId;
use ambit_runtime::{Counter, Counters, Expose, FamilyOptions, MetricsSettings, render_metrics};
use ambit_wire::names::ISTIO_TCP_LABELS;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;

use super::baggage::SourceWorkload;
use super::series::{SeriesTable, SourceSeries};
use super::{Destination, Flag};
use crate::state::Workload;

/// Gauges that are read at each scrape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    /// Numbers of services and so on, by kind.
    pub(crate) resources: Vec<(&'static str, usize)>,
    /// Pooled HBONE connections.
    pub(crate) hbone_connections: usize,
    /// Bytes held for callers.
    pub(crate) held_bytes: usize,
    /// Connections to endpoints for clients that have sent nothing.
    pub(crate) silent_connections: usize,
    /// Whether a control plane is connected.
    pub(crate) control_plane: bool,
}

/// Why a connection without a record was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// TLS failed, or the client's certificate is not one of the mesh.
    Tls,
    /// Not a CONNECT, or one to no address.
    Request,
    /// A connection to an endpoint for a client that has sent nothing: the limit is reached.
    Silent,
    /// CONNECT to an address that this waypoint does not serve.
    Authority,
    /// Admission refused: the limit is reached, or the peer's share of it.
    Overloaded,
    /// Malformed HTTP of the client.
    BadRequest,
}

impl Refusal {
    /// The label of the metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Request => "request",
            Self::Authority => "authority",
            Self::Silent => "silent",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad_request",
        }
    }
}

/// Maximum of series of a metric whose labels name workloads, services or rules; further ones are counted with unknown
/// labels.
const MAX_SERIES: usize = 3_000;

/// The labels that remain in that case.
pub(super) const KEPT: &[&str] = &[
    "reporter",
    "request_protocol",
    "response_code",
    "response_flags",
    "connection_security_policy",
];

/// A metric whose series expire.
pub(super) fn expiring(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kept: &'static [&'static str],
) -> FamilyOptions {
    FamilyOptions {
        name,
        help,
        labels,
        most: MAX_SERIES,
        kept,
    }
}

/// The series of an open non-HTTP connection, which keeps them alive.
pub(super) struct Totals {
    _opened: Counter,
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

/// All metrics of one waypoint.
pub(super) struct Metrics {
    registry: Registry,
    pub(super) series: SeriesTable,
    tcp_opened: Counters,
    tcp_closed: Counters,
    tcp_sent: Counters,
    tcp_received: Counters,
    retries: Counters,
    retry_limits: Counters,
    denied: Counters,
    audited: Counters,
    refused: IntCounterVec,
    moved: IntCounter,
    resources: IntGaugeVec,
    in_flight: IntGauge,
    connections: IntGauge,
    hbone_connections: IntGauge,
    held_bytes: IntGauge,
    silent_connections: IntGauge,
    control_plane: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str| {
            register(&registry, IntGauge::new(format!("ambit_waypoint_{name}"), help)?)
        };
        let resources = IntGaugeVec::new(
            Opts::new("ambit_waypoint_resources", "Configuration resources, by kind"),
            &["kind"],
        )?;
        Ok(Self {
            series: SeriesTable::new(),
            tcp_opened: Counters::new(expiring(
                "istio_tcp_connections_opened_total",
                "Non-HTTP connections opened",
                &ISTIO_TCP_LABELS,
                KEPT,
            )),
            tcp_closed: Counters::new(expiring(
                "istio_tcp_connections_closed_total",
                "Non-HTTP connections closed",
                &ISTIO_TCP_LABELS,
                KEPT,
            )),
            tcp_sent: Counters::new(expiring(
                "istio_tcp_sent_bytes_total",
                "Bytes that destinations sent to sources on non-HTTP connections",
                &ISTIO_TCP_LABELS,
                KEPT,
            )),
            tcp_received: Counters::new(expiring(
                "istio_tcp_received_bytes_total",
                "Bytes that destinations received from sources on non-HTTP connections",
                &ISTIO_TCP_LABELS,
                KEPT,
            )),
            retries: Counters::new(expiring(
                "ambit_retries_total",
                "Retried requests, by policy; policy \"\": requests that their endpoint had not processed",
                &["service", "policy"],
                &[],
            )),
            retry_limits: Counters::new(expiring(
                "ambit_retry_limit_total",
                "Requests that were not retried, because the service had its maximum of retries in flight",
                &["service"],
                &[],
            )),
            denied: Counters::new(expiring(
                "ambit_requests_denied_total",
                "Requests and connections that authorization denied, by the rule that decided",
                &["rule", "service"],
                &[],
            )),
            audited: Counters::new(expiring(
                "ambit_audit_total",
                "Requests and connections that an audit rule would have denied",
                &["rule", "service"],
                &[],
            )),
            refused: counters(
                "ambit_waypoint_refused_total",
                "Connections and requests that were not served at all, by reason",
                &["reason"],
            )?,
            moved: register(
                &registry,
                IntCounter::new(
                    "ambit_waypoint_connections_moved_total",
                    "Connections of clients ended between two requests, so that other replicas get their share",
                )?,
            )?,
            resources: register(&registry, resources)?,
            in_flight: gauge(
                "requests_in_flight",
                "Requests and non-HTTP connections in flight",
            )?,
            connections: gauge("client_connections", "Connections of clients")?,
            hbone_connections: gauge("hbone_connections", "Pooled HBONE connections to endpoints")?,
            held_bytes: gauge(
                "held_bytes",
                "Bytes held for callers, including the cost of their connections",
            )?,
            silent_connections: gauge(
                "silent_connections",
                "Connections to endpoints for clients that have sent nothing",
            )?,
            control_plane: gauge("control_plane_connected", "1 while a control plane is connected")?,
            registry,
        })
    }

    pub(super) fn moved(&self) {
        self.moved.inc();
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn source(&self, identity: &SpiffeId, workload: &SourceWorkload) -> Arc<SourceSeries> {
        self.series.source(identity, workload)
    }

    pub(super) fn retried(&self, destination: &Destination, policy: &str) {
        self.retries.with(&[destination.label(), policy]).inc();
    }

    pub(super) fn not_retried(&self, destination: &Destination) {
        self.retry_limits.with(&[destination.label()]).inc();
    }

    pub(super) fn denied(&self, rule: &str, destination: &Destination) {
        self.denied.with(&[rule, destination.label()]).inc();
    }

    pub(super) fn audited(&self, rule: &str, destination: &Destination) {
        self.audited.with(&[rule, destination.label()]).inc();
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refusals(refusal).inc();
    }

    pub(super) fn refusals(&self, refusal: Refusal) -> IntCounter {
        self.refused.with_label_values(&[refusal.reason()])
    }

    /// Counts an opened connection.
    pub(super) fn tcp_opened(
        &self,
        source: &SourceSeries,
        destination: &Destination,
        endpoint: Option<&Workload>,
    ) -> Totals {
        let labels = source.tcp_labels(destination, endpoint, Flag::None);
        let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        let opened = self.tcp_opened.with(&labels);
        opened.inc();
        Totals {
            _opened: opened,
            sent: self.tcp_sent.with(&labels),
            received: self.tcp_received.with(&labels),
        }
    }

    pub(super) fn tcp_closed(
        &self,
        source: &SourceSeries,
        destination: &Destination,
        endpoint: Option<&Workload>,
        flag: Flag,
    ) {
        let labels = source.tcp_labels(destination, endpoint, flag);
        let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        self.tcp_closed.with(&labels).inc();
    }

    pub(super) fn render(
        &self,
        gauges: &Gauges,
        connections: u32,
        in_flight: u64,
    ) -> Result<String, prometheus::Error> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (kind, count) in &gauges.resources {
            self.resources
                .with_label_values(&[kind])
                .set(signed(*count as u64));
        }
        self.in_flight.set(signed(in_flight));
        self.connections.set(connections.into());
        self.hbone_connections
            .set(signed(gauges.hbone_connections as u64));
        self.held_bytes.set(signed(gauges.held_bytes as u64));
        self.silent_connections
            .set(signed(gauges.silent_connections as u64));
        self.control_plane.set(gauges.control_plane.into());
        render_metrics("waypoint", &self.registry, &self.families())
    }

    /// Metrics whose series expire.
    fn families(&self) -> [&dyn Expose; 14] {
        [
            &self.series.requests,
            &self.series.duration,
            &self.series.request_bytes,
            &self.series.response_bytes,
            &self.series.messages.request,
            &self.series.messages.response,
            &self.tcp_opened,
            &self.tcp_closed,
            &self.tcp_sent,
            &self.tcp_received,
            &self.retries,
            &self.retry_limits,
            &self.denied,
            &self.audited,
        ]
    }

    /// Applies the metrics settings of the mesh.
    pub(super) fn apply(&self, settings: &MetricsSettings) {
        settings.drop_labels_of(&self.families());
        self.series
            .report_destination(settings.waypoint_reports_destination);
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
