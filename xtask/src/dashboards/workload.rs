//! A workload: who calls it, and what it calls.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{or_zero, quantile, success, sum, sum_rate};

const HTTP_IN: &str =
    "reporter=\"waypoint\",destination_workload_namespace=\"$namespace\",destination_workload=\"$workload\"";
const TCP_IN: &str = "reporter=\"destination\",destination_workload_namespace=\"$namespace\",destination_workload=\"$workload\"";
const HTTP_OUT: &str =
    "reporter=\"waypoint\",source_workload_namespace=\"$namespace\",source_workload=\"$workload\"";
const TCP_OUT: &str =
    "reporter=\"source\",source_workload_namespace=\"$namespace\",source_workload=\"$workload\"";
const WORKLOADS: &str = "query_result(sum by (workload) (label_replace(istio_tcp_connections_opened_total{destination_workload_namespace=\"$namespace\"}, \"workload\", \"$1\", \"destination_workload\", \"(.+)\")) or sum by (workload) (label_replace(istio_tcp_connections_opened_total{source_workload_namespace=\"$namespace\"}, \"workload\", \"$1\", \"source_workload\", \"(.+)\")))";
const CALLER: &str = "source_workload_namespace, source_workload";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "workload",
        title: "Ambit / Workload",
        description: "A workload in the mesh: what comes to it, and what it asks of others. A Deployment that is only called, or only calls, has one half empty.",
        variables: vec![
            Variable::one(
                "namespace",
                "Namespace",
                (
                    "istio_tcp_connections_opened_total{reporter=\"destination\"}",
                    "destination_workload_namespace",
                ),
            ),
            // Those that are called, and those that only call.
            Variable::Query {
                name: "workload",
                title: "Workload",
                query: WORKLOADS,
                regex: "/workload=\"([^\"]+)\"/",
            },
        ],
        rows: vec![glance(), inbound(), outbound()],
    }
}

fn glance() -> Row {
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Requests to it", Unit::Requests, "HTTP requests that a waypoint sent to the workload. A high value is load.")
                .query("requests", or_zero(&sum_rate("", "istio_requests_total", HTTP_IN))),
            Panel::stat(
                "Success of them",
                Unit::Share,
                "The part of requests to the workload without a 5xx. A high value is good; below 99% its callers see failures.",
            )
            .query("success", success("", HTTP_IN))
            .bad_below(0.99),
            Panel::stat("New connections to it", Unit::PerSecond, "TCP connections to the workload's pods. A high value is load.")
                .query("connections", or_zero(&sum_rate("", "istio_tcp_connections_opened_total", TCP_IN))),
            Panel::stat(
                "Open connections to it",
                Unit::Number,
                "Connections to the workload's pods that are open. A high value that only grows is a caller that leaks connections.",
            )
            .query(
                "open",
                format!("sum(istio_tcp_connections_opened_total{{{TCP_IN}}}) - sum(istio_tcp_connections_closed_total{{{TCP_IN}}})"),
            ),
            Panel::stat("Requests of it", Unit::Requests, "HTTP requests that the workload made through waypoints. A high value is load on others.")
                .query("requests", or_zero(&sum_rate("", "istio_requests_total", HTTP_OUT))),
            Panel::stat("New connections of it", Unit::PerSecond, "TCP connections that the workload opened. A high value is load on others.")
                .query("connections", or_zero(&sum_rate("", "istio_tcp_connections_opened_total", TCP_OUT))),
        ],
    }
}

fn inbound() -> Row {
    let open = format!(
        "{} - {}",
        sum(CALLER, &format!("istio_tcp_connections_opened_total{{{TCP_IN}}}")),
        sum(CALLER, &format!("istio_tcp_connections_closed_total{{{TCP_IN}}}"))
    );
    Row {
        title: "What comes to it",
        panels: vec![
            Panel::graph(
                "Requests by caller and code",
                Unit::Requests,
                "Requests to the workload by who made them and the code of the response. High 5xx for all callers is the workload; for one of them, what that one asks for.",
            )
            .query(
                "{{source_workload_namespace}}/{{source_workload}} {{response_code}}",
                sum_rate(&format!("{CALLER}, response_code"), "istio_requests_total", HTTP_IN),
            ),
            Panel::graph(
                "Duration of requests to it",
                Unit::Milliseconds,
                "From the head of a request to the end of its response, at the waypoint. A high value is a slow workload more often than a slow mesh.",
            )
            .query("p50", quantile("0.5", "", "istio_request_duration_milliseconds", HTTP_IN))
            .query("p90", quantile("0.9", "", "istio_request_duration_milliseconds", HTTP_IN))
            .query("p99", quantile("0.99", "", "istio_request_duration_milliseconds", HTTP_IN)),
            Panel::graph("New connections by caller", Unit::PerSecond, "TCP connections to the workload; unknown callers are outside of the mesh, and so are kubelets' probes. A high value is load.")
                .query(
                    "{{source_workload_namespace}}/{{source_workload}} {{connection_security_policy}}",
                    sum_rate(&format!("{CALLER}, connection_security_policy"), "istio_tcp_connections_opened_total", TCP_IN),
                ),
            Panel::graph(
                "Open connections by caller",
                Unit::Number,
                "Connections to the workload that are open. A high value that only grows is a caller that leaks connections.",
            )
            .query("{{source_workload_namespace}}/{{source_workload}}", open),
            Panel::graph("Bytes received by caller", Unit::BytesPerSecond, "Bytes that the workload received. A high value is load.")
                .query(
                    "{{source_workload_namespace}}/{{source_workload}}",
                    sum_rate(CALLER, "istio_tcp_received_bytes_total", TCP_IN),
                ),
            Panel::graph("Bytes sent by caller", Unit::BytesPerSecond, "Bytes that the workload sent to its callers. A high value is load.")
                .query(
                    "{{source_workload_namespace}}/{{source_workload}}",
                    sum_rate(CALLER, "istio_tcp_sent_bytes_total", TCP_IN),
                ),
        ],
    }
}

fn outbound() -> Row {
    let to = "destination_workload_namespace, destination_workload";
    Row {
        title: "What it asks of others",
        panels: vec![
            Panel::graph(
                "Requests by Service and code",
                Unit::Requests,
                "Requests that the workload made, by Service and the code of the response. High 5xx for one Service is that Service; high 403 a rule against this workload.",
            )
            .query(
                "{{destination_service_name}} {{response_code}}",
                sum_rate("destination_service_name, response_code", "istio_requests_total", HTTP_OUT),
            ),
            Panel::graph(
                "Duration of its requests, p99",
                Unit::Milliseconds,
                "One request in a hundred takes longer, by Service. A high value is what the workload waits for.",
            )
            .query(
                "{{destination_service_name}}",
                quantile("0.99", "destination_service_name", "istio_request_duration_milliseconds", HTTP_OUT),
            ),
            Panel::graph("New connections by destination", Unit::PerSecond, "TCP connections that the workload opened; unknown is outside of the mesh. A high value is load on others.")
                .query(
                    "{{destination_workload_namespace}}/{{destination_workload}}",
                    sum_rate(to, "istio_tcp_connections_opened_total", TCP_OUT),
                ),
        ],
    }
}
