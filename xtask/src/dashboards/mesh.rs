//! All of the mesh on a page.

use super::model::{Dashboard, Panel, Row, Unit};
use super::query::{or_zero, quantile, rate, share, success, sum, sum_rate};

const WAYPOINT: &str = "reporter=\"waypoint\"";
const SOURCE: &str = "reporter=\"source\"";
const DESTINATION: &str = "reporter=\"destination\"";
const ENCRYPTED: &str = "reporter=\"destination\",connection_security_policy=\"mutual_tls\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "mesh",
        title: "Ambit / Mesh",
        description: "Traffic, failures and refusals of the whole mesh. Requests are those that waypoints see; connections are all that ztunnels carry.",
        variables: Vec::new(),
        rows: vec![glance(), requests(), connections(), refusals(), versions()],
    }
}

fn glance() -> Row {
    let denied = format!(
        "{} + {}",
        or_zero(&sum_rate("", "ambit_ztunnel_connections_denied_total", "")),
        or_zero(&sum_rate("", "ambit_requests_denied_total", ""))
    );
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Requests", Unit::Requests, "HTTP requests that waypoints served. A high value is load.")
                .query("requests", or_zero(&sum_rate("", "istio_requests_total", WAYPOINT))),
            Panel::stat(
                "Success (no 5xx)",
                Unit::Share,
                "The part of requests that did not end with a 5xx. A high value is good; below 99% callers see failures.",
            )
            .query("success", success("", WAYPOINT))
            .bad_below(0.99),
            Panel::stat(
                "New connections",
                Unit::PerSecond,
                "TCP connections that captured pods opened. A high value is load; beside few requests it means clients that reuse no connection.",
            )
            .query("connections", sum_rate("", "istio_tcp_connections_opened_total", SOURCE)),
            Panel::stat(
                "Connections with mutual TLS",
                Unit::Share,
                "The part of connections to captured pods that came with mutual TLS. A high value is good; the rest is plaintext, from outside of the mesh or from kubelets.",
            )
            .query(
                "mutual TLS",
                share(
                    &or_zero(&sum_rate("", "istio_tcp_connections_opened_total", ENCRYPTED)),
                    &sum_rate("", "istio_tcp_connections_opened_total", DESTINATION),
                ),
            ),
            Panel::stat(
                "Denied",
                Unit::PerSecond,
                "Connections and requests that an authorization rule denied. A high value is a rule that is too strict, or a caller that has no business there.",
            )
            .query("denied", denied),
            Panel::stat("Captured pods", Unit::Number, "Pods whose traffic ztunnels carry. A high value is the size of the mesh.")
                .query("pods", sum("", "ambit_ztunnel_pods")),
        ],
    }
}

fn requests() -> Row {
    Row {
        title: "Requests through waypoints",
        panels: vec![
            Panel::graph(
                "Requests by namespace",
                Unit::Requests,
                "Requests by the namespace of the Service that was asked. A high value is load.",
            )
            .query(
                "{{destination_service_namespace}}",
                sum_rate("destination_service_namespace", "istio_requests_total", WAYPOINT),
            ),
            Panel::graph(
                "Requests by response code",
                Unit::Requests,
                "Requests by the code that callers got. High 5xx are failures of servers or of the way to them; high 403 are denials.",
            )
            .query("{{response_code}}", sum_rate("response_code", "istio_requests_total", WAYPOINT)),
            Panel::graph(
                "Duration of requests",
                Unit::Milliseconds,
                "From the head of a request to the end of its response, at the waypoint. A high value is a slow server more often than a slow mesh: compare with the server's own.",
            )
            .query("p50", quantile("0.5", "", "istio_request_duration_milliseconds", WAYPOINT))
            .query("p90", quantile("0.9", "", "istio_request_duration_milliseconds", WAYPOINT))
            .query("p99", quantile("0.99", "", "istio_request_duration_milliseconds", WAYPOINT)),
            Panel::table(
                "Busiest Services",
                Unit::Requests,
                "The ten Services with the most requests now. A high value is load.",
            )
            .query(
                "Requests",
                format!("topk(10, {} > 0)", sum_rate("destination_service", "istio_requests_total", WAYPOINT)),
            ),
            Panel::table(
                "Services with the most failures",
                Unit::Share,
                "The part of requests that ended with a 5xx, by Service; the ten worst. A high value is a Service that fails its callers.",
            )
            .query("Failed", format!("topk(10, 1 - {} > 0)", success("destination_service", WAYPOINT))),
        ],
    }
}

fn connections() -> Row {
    let open = format!(
        "{} - {}",
        sum(
            "destination_workload_namespace",
            &format!("istio_tcp_connections_opened_total{{{DESTINATION}}}")
        ),
        sum(
            "destination_workload_namespace",
            &format!("istio_tcp_connections_closed_total{{{DESTINATION}}}")
        )
    );
    let bytes = format!(
        "sum by (destination_workload_namespace) ({} + {})",
        rate("istio_tcp_sent_bytes_total", DESTINATION),
        rate("istio_tcp_received_bytes_total", DESTINATION)
    );
    Row {
        title: "Connections",
        panels: vec![
            Panel::graph(
                "Connections opened, by security",
                Unit::PerSecond,
                "New connections to captured pods: mutual_tls, or unknown for plaintext. High plaintext means callers outside of the mesh; mutual TLS mode Strict would refuse them.",
            )
            .query(
                "{{connection_security_policy}}",
                sum_rate("connection_security_policy", "istio_tcp_connections_opened_total", DESTINATION),
            ),
            Panel::graph(
                "Open connections by namespace",
                Unit::Number,
                "Connections to pods of the namespace that are open. A high value that only grows is an application that leaks connections.",
            )
            .query("{{destination_workload_namespace}}", open),
            Panel::graph(
                "Bytes by namespace",
                Unit::BytesPerSecond,
                "Bytes to and from pods of the namespace, measured beside the destination. A high value is load.",
            )
            .query("{{destination_workload_namespace}}", bytes),
            Panel::table(
                "Destinations reached in plaintext",
                Unit::PerSecond,
                "New connections without mutual TLS, by destination; the ten with the most. A high value is work to do before mutual TLS mode Strict. Probes of kubelets are among them.",
            )
            .query(
                "Connections",
                format!(
                    "topk(10, {} > 0)",
                    sum_rate(
                        "destination_workload_namespace, destination_workload, source_workload",
                        "istio_tcp_connections_opened_total",
                        "reporter=\"destination\",connection_security_policy!=\"mutual_tls\"",
                    )
                ),
            ),
            Panel::table(
                "Who speaks to whom",
                Unit::PerSecond,
                "New connections by source and destination; the ten pairs with the most. A high value is load.",
            )
            .query(
                "Connections",
                format!(
                    "topk(10, {} > 0)",
                    sum_rate(
                        "source_workload_namespace, source_workload, destination_workload_namespace, destination_workload",
                        "istio_tcp_connections_opened_total",
                        SOURCE,
                    )
                ),
            ),
        ],
    }
}

fn versions() -> Row {
    Row {
        title: "Versions and series",
        panels: vec![
            Panel::graph(
                "Processes by version",
                Unit::Number,
                "Processes of each part by version. Two versions of a part for long are a roll-out that does not end.",
            )
            .query("{{component}} {{tag}}", "sum by (component, tag) (istio_build)"),
            Panel::graph(
                "Series of metrics that may grow",
                Unit::Share,
                "Series of each bounded metric, of as many as it may have, in the process that has the most. At 100% new names are counted as unknown.",
            )
            .query("{{metric}}", "max by (metric) (ambit_metrics_series / ambit_metrics_series_limit)"),
        ],
    }
}

fn refusals() -> Row {
    Row {
        title: "Denied, refused, failed",
        panels: vec![
            Panel::graph(
                "Denied by rule",
                Unit::PerSecond,
                "Connections and requests that a rule denied, named after the rule. A high value after a change of rules means that the rule hits more than it should.",
            )
            .query("{{policy}}", sum_rate("policy", "ambit_ztunnel_connections_denied_total", ""))
            .query("{{rule}} (HTTP)", sum_rate("rule", "ambit_requests_denied_total", "")),
            Panel::graph(
                "Refused by reason",
                Unit::PerSecond,
                "Connections that ztunnels and waypoints did not serve at all. A high value is a limit that is reached, or a peer that breaks the protocol; docs/operations.md explains each reason.",
            )
            .query("{{reason}} (ztunnel)", sum_rate("reason", "ambit_ztunnel_connections_refused_total", ""))
            .query("{{reason}} (waypoint)", sum_rate("reason", "ambit_waypoint_refused_total", "")),
            Panel::graph(
                "Failed by reason",
                Unit::PerSecond,
                "Connections whose destination was not reached. A high value is a server that is down, a network policy in the way, or a waypoint without replicas (waypoint_unreachable).",
            )
            .query("{{reporter}}: {{reason}}", sum_rate("reporter, reason", "ambit_ztunnel_connections_failed_total", "")),
        ],
    }
}
