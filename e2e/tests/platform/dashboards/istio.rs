//! What Istio's own dashboards ask for (release 1.31): metrics and label filters, in queries of our own, and which of them have an answer here.

use ambit_e2e::eventually;
use ambit_e2e::lab::LIMIT;
use ambit_e2e::prometheus::Prometheus;
use anyhow::{Result, bail, ensure};

use super::load::{Load, NAMESPACE};

/// A number or picture of theirs.
struct Shown {
    dashboard: &'static str,
    what: &'static str,
    /// `SERVICE` and `NAMESPACE` stand for what a reader chooses.
    query: &'static str,
    /// Why it is empty with Ambit; `None` where it fills.
    empty: Option<&'static str>,
}

const fn fills(dashboard: &'static str, what: &'static str, query: &'static str) -> Shown {
    Shown {
        dashboard,
        what,
        query,
        empty: None,
    }
}

const fn empty(dashboard: &'static str, what: &'static str, query: &'static str, why: &'static str) -> Shown {
    Shown {
        dashboard,
        what,
        query,
        empty: Some(why),
    }
}

const REPORTER: &str = "a waypoint reports no client's side, as Istio's does not";
const CONTAINER: &str = "the container is `ztunnel`, not `istio-proxy`";

const SHOWN: &[Shown] = &[
    fills(
        "mesh",
        "requests a second",
        "sum(rate(istio_requests_total{reporter=~\"source|waypoint\"}[40s]))",
    ),
    fills(
        "mesh",
        "part without 5xx",
        "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code!~\"5..\"}[40s])) / sum(rate(istio_requests_total{reporter=~\"source|waypoint\"}[40s]))",
    ),
    fills(
        "mesh",
        "4xx",
        "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code=~\"4..\"}[40s]))",
    ),
    fills(
        "mesh",
        "5xx",
        "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code=~\"5..\"}[40s]))",
    ),
    fills(
        "mesh",
        "requests by workload and Service",
        "sum by (destination_workload, destination_workload_namespace, destination_service) (rate(istio_requests_total{reporter=~\"source|waypoint\"}[40s]))",
    ),
    fills(
        "mesh",
        "duration by workload",
        "histogram_quantile(0.9, sum by (le, destination_workload, destination_workload_namespace) (rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\"}[40s])))",
    ),
    fills(
        "mesh",
        "bytes received by workload",
        "sum by (destination_workload, destination_workload_namespace, destination_service) (rate(istio_tcp_received_bytes_total{reporter=~\"source|waypoint\"}[40s]))",
    ),
    fills(
        "mesh",
        "bytes sent by workload",
        "sum by (destination_workload, destination_workload_namespace, destination_service) (rate(istio_tcp_sent_bytes_total{reporter=~\"source|waypoint\"}[40s]))",
    ),
    fills(
        "mesh",
        "versions of the parts",
        "sum by (component, tag) (istio_build)",
    ),
    fills(
        "ztunnel",
        "connections opened by pod",
        "sum by (pod) (rate(istio_tcp_connections_opened_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "connections closed by pod",
        "sum by (pod) (rate(istio_tcp_connections_closed_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "bytes sent by pod",
        "sum by (pod) (rate(istio_tcp_sent_bytes_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "bytes received by pod",
        "sum by (pod) (rate(istio_tcp_received_bytes_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "open connections by pod",
        "sum by (pod) (istio_tcp_connections_opened_total{app=\"ztunnel\"}) - sum by (pod) (istio_tcp_connections_closed_total{app=\"ztunnel\"})",
    ),
    fills(
        "ztunnel",
        "versions",
        "sum by (tag) (istio_build{component=\"ztunnel\"})",
    ),
    empty(
        "ztunnel",
        "memory by pod",
        "sum by (pod) (container_memory_working_set_bytes{container=\"istio-proxy\",pod=~\"ztunnel-.*\"})",
        CONTAINER,
    ),
    empty(
        "ztunnel",
        "CPU by pod",
        "sum by (pod) (rate(container_cpu_usage_seconds_total{container=\"istio-proxy\",pod=~\"ztunnel-.*\"}[40s]))",
        CONTAINER,
    ),
    empty(
        "ztunnel",
        "DNS requests by pod",
        "sum by (pod) (rate(istio_dns_requests_total{pod=~\"ztunnel-.*\"}[40s]))",
        "there is no DNS proxy",
    ),
    fills(
        "ztunnel",
        "ended configuration streams",
        "sum by (pod) (rate(istio_xds_connection_terminations_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "configuration messages by type",
        "sum by (url) (rate(istio_xds_message_total{pod=~\"ztunnel-.*\"}[40s]))",
    ),
    fills(
        "ztunnel",
        "captured pods",
        "sum by (pod) (workload_manager_active_proxy_count{pod=~\"ztunnel-.*\"})",
    ),
    fills(
        "ztunnel",
        "pods that wait for capture",
        "sum by (pod) (workload_manager_pending_proxy_count{pod=~\"ztunnel-.*\"})",
    ),
    fills(
        "ztunnel",
        "open descriptors",
        "sum by (pod) (process_open_fds{app=\"ztunnel\"})",
    ),
    fills(
        "ztunnel",
        "open sockets",
        "sum by (pod) (istio_tcp_sockets_open{app=\"ztunnel\"})",
    ),
    fills(
        "service",
        "bytes received, by the server's side",
        "sum(rate(istio_tcp_received_bytes_total{reporter=~\"source|destination\",destination_service=\"server.NAMESPACE.svc.cluster.local\"}[40s]))",
    ),
    fills(
        "service",
        "bytes sent, by the server's side",
        "sum(rate(istio_tcp_sent_bytes_total{reporter=~\"source|destination\",destination_service=\"server.NAMESPACE.svc.cluster.local\"}[40s]))",
    ),
    fills(
        "service",
        "requests",
        "sum(rate(istio_requests_total{reporter=~\"source|destination\",destination_service=\"SERVICE\"}[40s]))",
    ),
    fills(
        "service",
        "duration",
        "histogram_quantile(0.9, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|destination\",destination_service=\"SERVICE\"}[40s])))",
    ),
    fills(
        "service",
        "requests by caller with mutual TLS",
        "sum by (source_workload, source_workload_namespace, response_code) (rate(istio_requests_total{connection_security_policy=\"mutual_tls\",reporter=~\"source|destination\",destination_service=\"SERVICE\"}[40s]))",
    ),
    fills(
        "service",
        "size of requests",
        "histogram_quantile(0.9, sum by (le, source_workload) (rate(istio_request_bytes_bucket{reporter=~\"source|destination\",destination_service=\"SERVICE\"}[40s])))",
    ),
    fills(
        "service",
        "size of responses",
        "histogram_quantile(0.9, sum by (le, source_workload) (rate(istio_response_bytes_bucket{reporter=~\"source|destination\",destination_service=\"SERVICE\"}[40s])))",
    ),
    fills(
        "workload",
        "namespaces to choose from",
        "sum by (destination_workload_namespace) (istio_tcp_sent_bytes_total)",
    ),
    fills(
        "workload",
        "bytes received with mutual TLS, by caller",
        "sum by (source_workload, source_workload_namespace) (rate(istio_tcp_received_bytes_total{connection_security_policy=\"mutual_tls\",reporter=~\"source|destination\",destination_workload_namespace=\"NAMESPACE\",destination_workload=\"server\"}[40s]))",
    ),
    fills(
        "workload",
        "bytes to others with mutual TLS, by Service",
        "sum by (destination_service) (rate(istio_tcp_received_bytes_total{connection_security_policy=\"mutual_tls\",reporter=\"source\",source_workload_namespace=\"NAMESPACE\",source_workload=\"client-a\"}[40s]))",
    ),
    fills(
        "workload",
        "requests by caller",
        "sum by (source_workload, response_code) (rate(istio_requests_total{connection_security_policy=\"mutual_tls\",destination_workload_namespace=\"NAMESPACE\",destination_workload=\"web\",reporter=~\"source|destination\"}[40s]))",
    ),
    empty(
        "workload",
        "requests to others, by Service",
        "sum by (destination_service, response_code) (rate(istio_requests_total{destination_principal=~\"spiffe.*\",source_workload_namespace=\"NAMESPACE\",source_workload=\"load-a\",reporter=\"source\"}[40s]))",
        REPORTER,
    ),
];

/// Those that fill have series under the load; of the others, prints which are empty and why.
pub(super) fn check(prometheus: &Prometheus, load: &Load<'_>) -> Result<()> {
    let has_values = |shown: &Shown| -> Result<bool> {
        let query = shown
            .query
            .replace("NAMESPACE", NAMESPACE)
            .replace("SERVICE", &load.service());
        Ok(prometheus
            .query(&query)?
            .iter()
            .any(|sample| sample.value.is_finite()))
    };
    let (full, other): (Vec<&Shown>, Vec<&Shown>) = SHOWN.iter().partition(|shown| shown.empty.is_none());
    eventually("what fills in Istio's dashboards to fill", LIMIT, || {
        load.stir()?;
        for shown in &full {
            ensure!(has_values(shown)?, "{}: {} is empty", shown.dashboard, shown.what);
        }
        Ok(())
    })?;
    let mut filled = Vec::new();
    for shown in &other {
        if has_values(shown)? {
            filled.push(shown.what);
        } else {
            println!(
                "Istio's {} dashboard, {}: empty, {}",
                shown.dashboard,
                shown.what,
                shown.empty.unwrap_or_default()
            );
        }
    }
    println!(
        "of Istio's dashboards {} of {} queries fill",
        full.len(),
        SHOWN.len()
    );
    if !filled.is_empty() {
        bail!("these fill, and are listed as empty: {filled:?}");
    }
    Ok(())
}
