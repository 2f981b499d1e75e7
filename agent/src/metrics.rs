//! Prometheus metrics of the agent.

use ambit_wire::agent::CaptureState;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// The agent's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    pods: IntGaugeVec,
    failures: IntCounterVec,
    refusals: IntCounterVec,
    ztunnels: IntGauge,
    capture_seconds: Histogram,
    cni_repairs: IntCounter,
    restored: IntCounterVec,
}

impl Metrics {
    /// Registers all metrics anew.
    ///
    /// # Errors
    /// Never in practice: two metrics would have to have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let buckets = vec![
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let metrics = Self {
            registry: Registry::new(),
            pods: IntGaugeVec::new(
                Opts::new("ambit_agent_pods", "Pods of this node by capture state"),
                &["state"],
            )?,
            failures: IntCounterVec::new(
                Opts::new(
                    "ambit_agent_capture_failures_total",
                    "Failed attempts to capture or release a pod",
                ),
                &["reason"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "ambit_agent_broker_refusals_total",
                    "Clients and descriptors that the broker refused",
                ),
                &["reason"],
            )?,
            ztunnels: IntGauge::new("ambit_agent_ztunnels", "Connected ztunnels")?,
            capture_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "ambit_agent_capture_duration_seconds",
                    "From the decision to the rules in force",
                )
                .buckets(buckets),
            )?,
            cni_repairs: IntCounter::new(
                "ambit_agent_cni_repairs_total",
                "Times the CNI configuration was found without the plugin and repaired",
            )?,
            restored: IntCounterVec::new(
                Opts::new(
                    "ambit_agent_rules_restored_total",
                    "Parts of the redirection of captured pods that another program removed and the \
                     agent restored",
                ),
                &["part"],
            )?,
        };
        let all: [Box<dyn Collector>; 7] = [
            Box::new(metrics.pods.clone()),
            Box::new(metrics.failures.clone()),
            Box::new(metrics.refusals.clone()),
            Box::new(metrics.ztunnels.clone()),
            Box::new(metrics.capture_seconds.clone()),
            Box::new(metrics.cni_repairs.clone()),
            Box::new(metrics.restored.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Never in practice: a metric without samples is left out before.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        ambit_runtime::render_metrics("agent", &self.registry, &[])
    }

    /// For metrics that others count.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn pods(&self, states: impl Iterator<Item = CaptureState>) {
        use CaptureState::{Captured, Failed, Pending, Released, Releasing};
        let mut counts = [
            (Pending, 0),
            (Captured, 0),
            (Failed, 0),
            (Releasing, 0),
            (Released, 0),
        ];
        for state in states {
            counts
                .iter_mut()
                .filter(|(of, _)| *of == state)
                .for_each(|(_, count)| *count += 1);
        }
        for (state, count) in counts {
            self.pods
                .with_label_values(&[state.as_str_name().to_lowercase()])
                .set(count);
        }
    }

    pub(crate) fn failure(&self, reason: &str) {
        self.failures.with_label_values(&[reason]).inc();
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    pub(crate) fn ztunnels(&self, count: usize) {
        self.ztunnels.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn captured_after(&self, time: Duration) {
        self.capture_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn restored(&self, parts: &[&str]) {
        parts
            .iter()
            .for_each(|part| self.restored.with_label_values(&[part]).inc());
    }

    pub(crate) fn cni_repaired(&self) {
        self.cni_repairs.inc();
    }
}
