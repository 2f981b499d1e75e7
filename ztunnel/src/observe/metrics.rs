//! Prometheus metrics: Istio's standard TCP metrics under their own names and labels, and ours under `ambit_ztunnel_`.

use ambit_runtime::{Counter, Counters, Expose, FamilyOptions, MetricsSettings, render_metrics};
use ambit_wire::names::ISTIO_TCP_LABELS;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Direction, Flag, Refusal, Traffic};
use crate::limits::{Budget, Limits};
use crate::sockets::StoreLimits;

/// Maximum of series of a metric whose labels name workloads or policies; further ones are counted with unknown labels.
const MAX_SERIES: usize = 10_000;

/// The labels that remain in that case.
const KEPT: &[&str] = &[
    "reporter",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

/// The series of an open connection, which keeps them alive.
pub(super) struct Totals {
    _opened: Counter,
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

/// All metrics of one ztunnel.
pub(crate) struct Metrics {
    registry: Registry,
    opened: Counters,
    closed: Counters,
    sent_bytes: Counters,
    received_bytes: Counters,
    refused: IntCounterVec,
    failed: IntCounterVec,
    denied: Counters,
    audited: Counters,
    sockets: IntCounterVec,
    /// Connections that are open, by reporter.
    open: IntGaugeVec,
    started_pods: IntCounter,
    stopped_pods: IntCounter,
    gauges: Vec<IntGauge>,
}

/// Gauges that are read at each scrape.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gauges {
    pub(crate) pods: usize,
    pub(crate) draining_pods: usize,
    pub(crate) refused_pods: usize,
    pub(crate) workloads: usize,
    pub(crate) services: usize,
    pub(crate) policies: usize,
    pub(crate) hbone_connections: usize,
    pub(crate) descriptors: usize,
    pub(crate) control_plane: bool,
    pub(crate) agent: bool,
}

/// The pods are also counted under the names of Istio's ztunnel.
const GAUGES: [(&str, &str); 11] = [
    (
        "workload_manager_active_proxy_count",
        "Captured pods that this ztunnel serves",
    ),
    (
        "workload_manager_pending_proxy_count",
        "Captured pods that could not be served when the node agent last asked",
    ),
    ("ambit_ztunnel_pods", "Captured pods that this ztunnel serves"),
    (
        "ambit_ztunnel_draining_pods",
        "Released pods with open connections",
    ),
    ("ambit_ztunnel_workloads", "Workloads in the configuration"),
    ("ambit_ztunnel_services", "Services in the configuration"),
    (
        "ambit_ztunnel_policies",
        "Authorization policies in the configuration",
    ),
    ("ambit_ztunnel_hbone_connections", "Pooled HBONE connections"),
    (
        "ambit_ztunnel_descriptors_in_use",
        "Descriptors of proxied connections",
    ),
    (
        "ambit_ztunnel_control_plane_connected",
        "1 while a control plane is connected",
    ),
    (
        "ambit_ztunnel_agent_connected",
        "1 while the node agent is connected",
    ),
];

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Never, as long as the names above are legal and differ.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            register(&registry, &counters)?;
            Ok::<_, prometheus::Error>(counters)
        };
        let expiring = |name, help, labels, kept| {
            Counters::new(FamilyOptions {
                name,
                help,
                labels,
                most: MAX_SERIES,
                kept,
            })
        };
        let gauge = |(name, help): (&str, &str)| {
            let gauge = IntGauge::new(name, help)?;
            register(&registry, &gauge)?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            register(&registry, &counter)?;
            Ok::<_, prometheus::Error>(counter)
        };
        let open = Opts::new(
            "istio_tcp_sockets_open",
            "Connections of captured pods that are open, by reporter",
        );
        let open = IntGaugeVec::new(open, &["reporter"])?;
        register(&registry, &open)?;
        // So that the metric is there before the first connection.
        for reporter in ["source", "destination"] {
            open.with_label_values(&[reporter]);
        }
        Ok(Self {
            open,
            started_pods: counter(
                "workload_manager_proxies_started_total",
                "Captured pods that this ztunnel has begun to serve",
            )?,
            stopped_pods: counter(
                "workload_manager_proxies_stopped_total",
                "Captured pods that this ztunnel has stopped to serve",
            )?,
            opened: expiring(
                "istio_tcp_connections_opened_total",
                "TCP connections opened",
                &ISTIO_TCP_LABELS,
                KEPT,
            ),
            closed: expiring(
                "istio_tcp_connections_closed_total",
                "TCP connections closed",
                &ISTIO_TCP_LABELS,
                KEPT,
            ),
            sent_bytes: expiring(
                "istio_tcp_sent_bytes_total",
                "Bytes that destinations sent to sources",
                &ISTIO_TCP_LABELS,
                KEPT,
            ),
            received_bytes: expiring(
                "istio_tcp_received_bytes_total",
                "Bytes that destinations received from sources",
                &ISTIO_TCP_LABELS,
                KEPT,
            ),
            refused: counters(
                "ambit_ztunnel_connections_refused_total",
                "Connections and requests that were not served, by listener and reason",
                &["direction", "reason"],
            )?,
            failed: counters(
                "ambit_ztunnel_connections_failed_total",
                "Connections whose destination was not reached, by reporter and reason",
                &["reporter", "reason"],
            )?,
            denied: expiring(
                "ambit_ztunnel_connections_denied_total",
                "Connections that authorization denied, by the policy that decided",
                &["policy", "destination_workload_namespace"],
                &[],
            ),
            audited: expiring(
                "ambit_ztunnel_audit_denials_total",
                "Connections that an audit policy would have denied",
                &["policy", "destination_workload_namespace"],
                &[],
            ),
            sockets: counters(
                "ambit_ztunnel_sockets_total",
                "Sockets in pods: made, reused, or closed after use because enough were cached",
                &["how"],
            )?,
            gauges: GAUGES.into_iter().map(gauge).collect::<Result<_, _>>()?,
            registry,
        })
    }

    /// The limits of the pods' socket caches, with their counter.
    pub(crate) fn stores(&self, limits: &Limits) -> StoreLimits {
        StoreLimits {
            most: limits.idle_sockets_per_pod,
            idle: Budget::new(limits.idle_sockets),
            counter: self.sockets.clone(),
        }
    }

    /// For metrics that other parts count.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn refused(&self, direction: Direction, refusal: Refusal) {
        self.refused
            .with_label_values(&[direction.name(), refusal.reason()])
            .inc();
    }

    pub(super) fn failed(&self, traffic: &Traffic, reason: &str) {
        self.failed
            .with_label_values(&[traffic.reporter.name(), reason])
            .inc();
    }

    pub(crate) fn denied(&self, policy: &str, namespace: &str) {
        self.denied.with(&[policy, namespace]).inc();
    }

    pub(crate) fn audited(&self, policy: &str, namespace: &str) {
        self.audited.with(&[policy, namespace]).inc();
    }

    /// A pod is served from now on.
    pub(crate) fn pod_started(&self) {
        self.started_pods.inc();
    }

    /// A pod is served no longer, but for connections that are open.
    pub(crate) fn pod_stopped(&self) {
        self.stopped_pods.inc();
    }

    /// Counts an opened connection.
    pub(super) fn opened(&self, traffic: &Traffic) -> Totals {
        self.open.with_label_values(&[traffic.reporter.name()]).inc();
        let labels = labels(traffic, Flag::None);
        let labels = labels.each_ref().map(AsRef::as_ref);
        let opened = self.opened.with(&labels);
        opened.inc();
        Totals {
            _opened: opened,
            sent: self.sent_bytes.with(&labels),
            received: self.received_bytes.with(&labels),
        }
    }

    pub(super) fn closed(&self, traffic: &Traffic, flag: Flag) {
        self.open.with_label_values(&[traffic.reporter.name()]).dec();
        let labels = labels(traffic, flag);
        self.closed.with(&labels.each_ref().map(AsRef::as_ref)).inc();
    }

    /// The text format, with these gauges.
    ///
    /// # Errors
    /// When the metrics cannot be written as text.
    pub(crate) fn render(&self, values: Gauges) -> Result<String, prometheus::Error> {
        let values = [
            values.pods,
            values.refused_pods,
            values.pods,
            values.draining_pods,
            values.workloads,
            values.services,
            values.policies,
            values.hbone_connections,
            values.descriptors,
            usize::from(values.control_plane),
            usize::from(values.agent),
        ];
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        render_metrics("ztunnel", &self.registry, &self.families())
    }

    /// Metrics whose series expire.
    fn families(&self) -> [&dyn Expose; 6] {
        [
            &self.opened,
            &self.closed,
            &self.sent_bytes,
            &self.received_bytes,
            &self.denied,
            &self.audited,
        ]
    }

    /// Applies the metrics settings of the mesh.
    pub(crate) fn apply(&self, settings: &MetricsSettings) {
        settings.drop_labels_of(&self.families());
    }
}

fn register(
    registry: &Registry,
    collector: &(impl Collector + Clone + 'static),
) -> Result<(), prometheus::Error> {
    registry.register(Box::new(collector.clone()))
}

type Label<'a> = std::borrow::Cow<'a, str>;

fn labels(traffic: &Traffic, flag: Flag) -> [Label<'_>; ISTIO_TCP_LABELS.len()] {
    const UNKNOWN: &str = "unknown";
    fn or_unknown(text: &str) -> Label<'_> {
        Label::Borrowed(if text.is_empty() { UNKNOWN } else { text })
    }
    let unknown = || Label::Borrowed(UNKNOWN);
    let source = traffic.source.workload.as_deref();
    let destination = traffic.destination.workload.as_deref();
    let service = traffic.service.as_deref();
    let principal = |peer: &super::Peer| {
        peer.identity
            .as_ref()
            .map_or_else(unknown, |id| id.to_string().into())
    };
    macro_rules! of {
        ($subject:expr, $field:ident) => {
            $subject.map_or_else(unknown, |subject| or_unknown(&subject.$field))
        };
    }
    [
        Label::Borrowed(traffic.reporter.name()),
        of!(source, workload_name),
        of!(source, canonical_name),
        of!(source, canonical_revision),
        of!(source, namespace),
        principal(&traffic.source),
        of!(source, canonical_name),
        of!(source, canonical_revision),
        of!(source, cluster),
        of!(service, hostname),
        of!(service, namespace),
        of!(service, name),
        of!(destination, workload_name),
        of!(destination, canonical_name),
        of!(destination, canonical_revision),
        of!(destination, namespace),
        principal(&traffic.destination),
        of!(destination, canonical_name),
        of!(destination, canonical_revision),
        of!(destination, cluster),
        Label::Borrowed("tcp"),
        Label::Borrowed(flag.name()),
        if traffic.is_secure() {
            Label::Borrowed("mutual_tls")
        } else {
            unknown()
        },
    ]
}
