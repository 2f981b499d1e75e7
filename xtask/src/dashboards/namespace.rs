//! A namespace: what its Services are asked for, and by whom.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{or_zero, quantile, share, success, sum, sum_rate};

const TO: &str = "destination_workload_namespace=\"$namespace\"";
const HTTP: &str = "reporter=\"waypoint\",destination_service_namespace=\"$namespace\"";
const TCP: &str = "reporter=\"destination\",destination_workload_namespace=\"$namespace\"";
const OUT: &str = "reporter=\"source\",source_workload_namespace=\"$namespace\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "namespace",
        title: "Ambit / Namespace",
        description: "A namespace in the mesh: load, failures and refusals of its Services, and its waypoints.",
        variables: vec![Variable::one(
            "namespace",
            "Namespace",
            (
                "istio_tcp_connections_opened_total{reporter=\"destination\"}",
                "destination_workload_namespace",
            ),
        )],
        rows: vec![glance(), requests(), connections(), waypoints()],
    }
}

fn glance() -> Row {
    let encrypted = format!("{TCP},connection_security_policy=\"mutual_tls\"");
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Requests", Unit::Requests, "HTTP requests to the namespace's Services that waypoints served. A high value is load.")
                .query("requests", or_zero(&sum_rate("", "istio_requests_total", HTTP))),
            Panel::stat(
                "Success (no 5xx)",
                Unit::Share,
                "The part of requests that did not end with a 5xx. A high value is good; below 99% callers see failures.",
            )
            .query("success", success("", HTTP))
            .bad_below(0.99),
            Panel::stat(
                "Duration, p99",
                Unit::Milliseconds,
                "One request in a hundred takes longer, at the waypoint. A high value is a slow server more often than a slow mesh.",
            )
            .query("p99", quantile("0.99", "", "istio_request_duration_milliseconds", HTTP)),
            Panel::stat(
                "New connections",
                Unit::PerSecond,
                "TCP connections to the namespace's pods. A high value is load; beside few requests it means clients that reuse no connection.",
            )
            .query("connections", sum_rate("", "istio_tcp_connections_opened_total", TCP)),
            Panel::stat(
                "Connections with mutual TLS",
                Unit::Share,
                "The part of connections to the namespace's pods that came with mutual TLS. A high value is good; the rest is plaintext.",
            )
            .query(
                "mutual TLS",
                share(
                    &or_zero(&sum_rate("", "istio_tcp_connections_opened_total", &encrypted)),
                    &sum_rate("", "istio_tcp_connections_opened_total", TCP),
                ),
            ),
            Panel::stat(
                "Denied",
                Unit::PerSecond,
                "Connections and requests that a rule of the namespace denied. A high value is a rule that is too strict, or a caller that has no business there.",
            )
            .query(
                "denied",
                format!(
                    "{} + {}",
                    or_zero(&sum_rate("", "ambit_ztunnel_connections_denied_total", "policy=~\"$namespace/.*\"")),
                    or_zero(&sum_rate("", "ambit_requests_denied_total", "rule=~\"$namespace/.*\""))
                ),
            ),
        ],
    }
}

fn requests() -> Row {
    Row {
        title: "Requests through waypoints",
        panels: vec![
            Panel::graph("Requests by Service", Unit::Requests, "Requests by the Service that was asked. A high value is load.")
                .query("{{destination_service_name}}", sum_rate("destination_service_name", "istio_requests_total", HTTP)),
            Panel::graph(
                "Success by Service",
                Unit::Share,
                "The part of requests without a 5xx, by Service. A high value is good; where one Service falls alone, look at its pods first.",
            )
            .query("{{destination_service_name}}", success("destination_service_name", HTTP)),
            Panel::graph(
                "Duration by Service, p99",
                Unit::Milliseconds,
                "One request in a hundred takes longer. A high value for one Service is that Service; for all of them, the waypoint or the node.",
            )
            .query(
                "{{destination_service_name}}",
                quantile("0.99", "destination_service_name", "istio_request_duration_milliseconds", HTTP),
            ),
            Panel::graph(
                "Requests by response code",
                Unit::Requests,
                "Requests by the code that callers got. High 5xx are failures of servers or of the way to them; high 403 are denials.",
            )
            .query("{{response_code}}", sum_rate("response_code", "istio_requests_total", HTTP)),
            Panel::graph(
                "Size of responses, p90",
                Unit::Bytes,
                "One response in ten is larger, by Service. A high value explains long durations and memory of waypoints.",
            )
            .query(
                "{{destination_service_name}}",
                quantile("0.9", "destination_service_name", "istio_response_bytes", HTTP),
            ),
            Panel::graph(
                "Size of requests, p90",
                Unit::Bytes,
                "One request in ten is larger, by Service. A high value explains long durations and memory of waypoints.",
            )
            .query(
                "{{destination_service_name}}",
                quantile("0.9", "destination_service_name", "istio_request_bytes", HTTP),
            ),
            Panel::graph(
                "Requests by caller",
                Unit::Requests,
                "Requests by the workload that made them. A high value is load; a new name is a new dependency.",
            )
            .query(
                "{{source_workload_namespace}}/{{source_workload}}",
                sum_rate("source_workload_namespace, source_workload", "istio_requests_total", HTTP),
            ),
            Panel::graph(
                "Denied and audited by rule",
                Unit::PerSecond,
                "What rules of the namespace denied, and what Audit rules would deny. A high audited value is what enforcing the rule would break.",
            )
            .query("{{policy}}", sum_rate("policy", "ambit_ztunnel_connections_denied_total", "policy=~\"$namespace/.*\""))
            .query("{{rule}} (HTTP)", sum_rate("rule", "ambit_requests_denied_total", "rule=~\"$namespace/.*\""))
            .query("{{policy}} (audit)", sum_rate("policy", "ambit_ztunnel_audit_denials_total", "policy=~\"$namespace/.*\""))
            .query("{{rule}} (HTTP, audit)", sum_rate("rule", "ambit_audit_total", "rule=~\"$namespace/.*\"")),
        ],
    }
}

fn connections() -> Row {
    let open = format!(
        "{} - {}",
        sum(
            "destination_workload",
            &format!("istio_tcp_connections_opened_total{{{TCP}}}")
        ),
        sum(
            "destination_workload",
            &format!("istio_tcp_connections_closed_total{{{TCP}}}")
        )
    );
    Row {
        title: "Connections",
        panels: vec![
            Panel::graph("New connections by workload", Unit::PerSecond, "TCP connections to the namespace's workloads. A high value is load.")
                .query("{{destination_workload}}", sum_rate("destination_workload", "istio_tcp_connections_opened_total", TCP)),
            Panel::graph(
                "Open connections by workload",
                Unit::Number,
                "Connections to the workload that are open. A high value that only grows is an application that leaks connections.",
            )
            .query("{{destination_workload}}", open),
            Panel::graph(
                "New connections to elsewhere",
                Unit::PerSecond,
                "Connections that the namespace's pods opened, by destination; unknown is outside of the mesh. A high value is load on others.",
            )
            .query(
                "{{destination_workload_namespace}}/{{destination_workload}}",
                sum_rate("destination_workload_namespace, destination_workload", "istio_tcp_connections_opened_total", OUT),
            ),
            Panel::graph(
                "Bytes received by workload",
                Unit::BytesPerSecond,
                "Bytes that workloads of the namespace received. A high value is load.",
            )
            .query("{{destination_workload}}", sum_rate("destination_workload", "istio_tcp_received_bytes_total", TCP)),
            Panel::graph("Bytes sent by workload", Unit::BytesPerSecond, "Bytes that workloads of the namespace sent to their callers. A high value is load.")
                .query("{{destination_workload}}", sum_rate("destination_workload", "istio_tcp_sent_bytes_total", TCP)),
            Panel::graph(
                "Connections by security",
                Unit::PerSecond,
                "New connections to the namespace's pods: mutual_tls, or unknown for plaintext. High plaintext means callers outside of the mesh.",
            )
            .query(
                "{{connection_security_policy}}",
                sum_rate("connection_security_policy", "istio_tcp_connections_opened_total", &format!("reporter=\"destination\",{TO}")),
            ),
        ],
    }
}

fn waypoints() -> Row {
    let own = "namespace=\"$namespace\",waypoint=\"\"";
    Row {
        title: "Waypoints of the namespace",
        panels: vec![
            Panel::graph(
                "Requests in flight by replica",
                Unit::Number,
                "Requests that a replica of a waypoint has under way. A high value makes the operator add replicas; where it stays high, the waypoint is at its maximum.",
            )
            .query("{{pod}}", sum("pod", &format!("ambit_waypoint_requests_in_flight{{{own}}}"))),
            Panel::graph(
                "CPU of waypoints",
                Unit::Cores,
                "CPU of the namespace's waypoints. A high value beside few requests means large bodies or many handshakes.",
            )
            .query("{{pod}}", super::query::cpu("pod", "container=\"waypoint\",namespace=\"$namespace\"")),
            Panel::graph(
                "Memory of waypoints",
                Unit::Bytes,
                "Memory of the namespace's waypoints. A high value near the limit (512Mi by default) ends in an OOM kill: raise the limit, or lower targetInFlight.",
            )
            .query("{{pod}}", super::query::memory("pod", "container=\"waypoint\",namespace=\"$namespace\"")),
        ],
    }
}
