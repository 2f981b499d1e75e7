use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The control plane's own metrics.
#[derive(Clone)]
pub(super) struct Metrics {
    sent: IntCounterVec,
    rejected: IntCounterVec,
    streams: IntGaugeVec,
    refused: IntCounterVec,
    issued: IntCounter,
    reports: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vec = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            sent: vec(
                "ambit_config_resources_sent_total",
                "Configuration resources, and removals of them, sent to proxies and agents.",
                &["proxy_type", "type_url"],
            )?,
            rejected: vec(
                "ambit_config_rejected_total",
                "Responses that a proxy or agent could not apply (NACK).",
                &["proxy_type", "type_url"],
            )?,
            streams: IntGaugeVec::new(
                Opts::new("ambit_control_streams", "Open configuration streams."),
                &["proxy_type"],
            )?,
            refused: vec(
                "ambit_control_refused_total",
                "Calls that the control plane refused.",
                &["reason"],
            )?,
            issued: IntCounter::new("ambit_certificates_issued_total", "Workload certificates issued.")?,
            reports: vec(
                "ambit_capture_reports_total",
                "Reports of node agents, by whether they could be recorded.",
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.issued.clone()))?;
        registry.register(Box::new(metrics.reports.clone()))?;
        Ok(metrics)
    }

    pub(super) fn sent(&self, proxy_type: &str, type_url: &str, resources: usize) {
        self.sent
            .with_label_values(&[proxy_type, type_url])
            .inc_by(resources as u64);
    }

    pub(super) fn rejected(&self, proxy_type: &str, type_url: &str) {
        self.rejected.with_label_values(&[proxy_type, type_url]).inc();
    }

    pub(super) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn issued(&self) {
        self.issued.inc();
    }

    pub(super) fn reported(&self, recorded: bool) {
        self.reports
            .with_label_values(&[if recorded { "recorded" } else { "failed" }])
            .inc();
    }

    /// Counts a stream as open until the guard is dropped.
    pub(super) fn stream(&self, proxy_type: &str) -> StreamGuard {
        let gauge = self.streams.with_label_values(&[proxy_type]);
        gauge.inc();
        StreamGuard(gauge)
    }
}

pub(super) struct StreamGuard(prometheus::IntGauge);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
