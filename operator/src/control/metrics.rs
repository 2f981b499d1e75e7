use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::role::Role;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// In seconds.
const ACKNOWLEDGED: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The control plane's own metrics.
#[derive(Clone)]
pub(super) struct Metrics {
    sent: IntCounterVec,
    proxies: Arc<Mutex<HashMap<Proxy, Series>>>,
    rejected: IntCounterVec,
    streams: IntGaugeVec,
    refused: IntCounterVec,
    acknowledged: HistogramVec,
    issued: IntCounter,
    not_issued: IntCounterVec,
    expiry: IntGauge,
    reports: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vec = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            sent: vec(
                "ambit_config_resources_sent_total",
                "Configuration resources, and removals of them, sent to each proxy or agent (its pod, namespace/name) that has a stream open.",
                &["type_url", "role", "proxy"],
            )?,
            proxies: Arc::default(),
            rejected: vec(
                "ambit_config_rejected_total",
                "Responses that a proxy or agent could not apply (NACK).",
                &["role", "type_url"],
            )?,
            streams: IntGaugeVec::new(
                Opts::new("ambit_control_streams", "Open configuration streams."),
                &["role"],
            )?,
            refused: vec(
                "ambit_control_refused_total",
                "Calls that the control plane refused.",
                &["reason"],
            )?,
            acknowledged: HistogramVec::new(
                HistogramOpts::new(
                    "ambit_xds_change_to_ack_seconds",
                    "From the publication of a change to the acknowledgement of a proxy or agent whose stream is open, by its role.",
                )
                .buckets(ACKNOWLEDGED.to_vec()),
                &["role"],
            )?,
            not_issued: vec(
                "ambit_certificates_refused_total",
                "Requests for workload certificates that were refused.",
                &["reason"],
            )?,
            expiry: IntGauge::new(
                "ambit_ca_expiry_timestamp_seconds",
                "When the certificate of the mesh's authority expires, in seconds since 1970: no other lasts longer.",
            )?,
            issued: IntCounter::new("ambit_certificates_issued_total", "Workload certificates issued.")?,
            reports: vec(
                "ambit_capture_reports_total",
                "Reports of node agents, by result.",
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.issued.clone()))?;
        registry.register(Box::new(metrics.reports.clone()))?;
        registry.register(Box::new(metrics.acknowledged.clone()))?;
        registry.register(Box::new(metrics.not_issued.clone()))?;
        registry.register(Box::new(metrics.expiry.clone()))?;
        // So that what has not happened yet is 0.
        for role in Role::OF_PROXIES {
            metrics.streams.with_label_values(&[role.label()]);
            metrics.acknowledged.with_label_values(&[role.label()]);
        }
        Ok(metrics)
    }

    pub(super) fn rejected(&self, role: &str, type_url: &str) {
        self.rejected.with_label_values(&[role, type_url]).inc();
    }

    pub(super) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn issued(&self) {
        self.issued.inc();
    }

    pub(super) fn not_issued(&self, reason: &str) {
        self.not_issued.with_label_values(&[reason]).inc();
    }

    /// When the authority's certificate expires.
    pub(super) fn expires(&self, at: SystemTime) {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.expiry.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    }

    pub(super) fn acknowledged(&self, role: &str, took: Duration) {
        self.acknowledged
            .with_label_values(&[role])
            .observe(took.as_secs_f64());
    }

    pub(super) fn reported(&self, recorded: bool) {
        self.reports
            .with_label_values(&[if recorded { "recorded" } else { "failed" }])
            .inc();
    }

    /// Counts a stream of `proxy` as open until the guard is dropped.
    pub(super) fn stream(&self, role: &'static str, proxy: String) -> StreamGuard {
        let open = self.streams.with_label_values(&[role]);
        open.inc();
        let proxy = Proxy { role, name: proxy };
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.entry(proxy.clone()).or_default().streams += 1;
        drop(proxies);
        StreamGuard {
            proxy,
            open,
            metrics: self.clone(),
        }
    }
}

/// The client of the stream.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Proxy {
    role: &'static str,
    name: String,
}

/// Counters of a proxy with an open stream. A proxy that reconnects may do so before its old stream has ended.
#[derive(Default)]
struct Series {
    streams: usize,
    types: BTreeSet<String>,
}

/// An open stream, and the resources sent on it. The series of a proxy is removed with its last stream, since pods come
/// and go.
pub(super) struct StreamGuard {
    proxy: Proxy,
    open: prometheus::IntGauge,
    metrics: Metrics,
}

impl StreamGuard {
    pub(super) fn sent(&self, type_url: &str, resources: usize) {
        let Proxy { role, name } = &self.proxy;
        let mut proxies = self
            .metrics
            .proxies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = proxies.get_mut(&self.proxy)
            && !series.types.contains(type_url)
        {
            series.types.insert(type_url.to_owned());
        }
        self.metrics
            .sent
            .with_label_values(&[type_url, role, name])
            .inc_by(resources as u64);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.open.dec();
        let mut proxies = self
            .metrics
            .proxies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(series) = proxies.get_mut(&self.proxy) else {
            return;
        };
        series.streams -= 1;
        if series.streams > 0 {
            return;
        }
        for type_url in &series.types {
            let labels = [type_url.as_str(), self.proxy.role, &self.proxy.name];
            // Fails only if there is no such series.
            let _ = self.metrics.sent.remove_label_values(&labels);
        }
        proxies.remove(&self.proxy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_resources_are_counted_by_connected_proxy() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let counted = || {
            let families = registry.gather();
            let sent = families
                .iter()
                .find(|f| f.name() == "ambit_config_resources_sent_total");
            let series = sent.into_iter().flat_map(|f| f.get_metric());
            let mut all: Vec<_> = series
                .map(|m| {
                    let labels = m.get_label().iter().map(|l| l.value());
                    (labels.collect::<Vec<_>>().join(" "), m.get_counter().get_value())
                })
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        let old = metrics.stream("waypoint", "shop/waypoint-a".into());
        old.sent("T", 3);
        let new = metrics.stream("waypoint", "shop/waypoint-a".into());
        let other = metrics.stream("waypoint", "pay/waypoint-a".into());
        other.sent("T", 1);
        drop(old);
        new.sent("T", 2);
        new.sent("U", 0);
        // Labels in the order of their names: proxy, role, type_url.
        let all = [
            ("pay/waypoint-a waypoint T".to_owned(), 1.0),
            ("shop/waypoint-a waypoint T".to_owned(), 5.0),
            ("shop/waypoint-a waypoint U".to_owned(), 0.0),
        ];
        assert_eq!(counted(), all);
        drop(new);
        assert_eq!(counted(), all[..1]);
    }
}
