//! The L7 proxies.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{cpu, memory, or_zero, quantile, success, sum, sum_rate};

const OWN: &str = "namespace=~\"$namespace\",pod=~\"$pod\"";
const HTTP: &str = "reporter=\"waypoint\",namespace=~\"$namespace\",pod=~\"$pod\"";
const CONTAINER: &str = "container=\"waypoint\",namespace=~\"$namespace\",pod=~\"$pod\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "waypoint",
        title: "Ambit / Waypoint",
        description: "Waypoints: what they serve, what they refuse, how they scale, and what they use.",
        variables: vec![
            Variable::many(
                "namespace",
                "Namespace",
                ("ambit_waypoint_held_bytes", "namespace"),
            ),
            Variable::many(
                "pod",
                "Replica",
                ("ambit_waypoint_held_bytes{namespace=~\"$namespace\"}", "pod"),
            ),
        ],
        rows: vec![glance(), requests(), trouble(), resources()],
    }
}

fn gauge(name: &str) -> String {
    sum("pod", &format!("ambit_waypoint_{name}{{{OWN}}}"))
}

fn glance() -> Row {
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Replicas", Unit::Number, "Replicas of waypoints that are scraped. A high value is load, now or a few minutes ago.")
                .query("replicas", format!("count(ambit_waypoint_held_bytes{{{OWN}}})")),
            Panel::stat(
                "Without a control plane",
                Unit::Number,
                "Replicas without a stream to a control plane. A high value means that new rules, endpoints and certificates do not reach them; what they have goes on.",
            )
            .query("disconnected", format!("count(ambit_waypoint_control_plane_connected{{{OWN}}} == 0) or vector(0)"))
            .bad_above(1.0),
            Panel::stat("Requests", Unit::Requests, "Requests that the replicas served. A high value is load.")
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
                "One request in a hundred takes longer. A high value is a slow server more often than a slow waypoint.",
            )
            .query("p99", quantile("0.99", "", "istio_request_duration_milliseconds", HTTP)),
            Panel::stat(
                "Requests in flight",
                Unit::Number,
                "Requests that are under way. A high value per replica makes the operator add replicas.",
            )
            .query("in flight", format!("sum(ambit_waypoint_requests_in_flight{{{OWN},waypoint=\"\"}})")),
        ],
    }
}

fn requests() -> Row {
    Row {
        title: "What they serve",
        panels: vec![
            Panel::graph("Requests by Service", Unit::Requests, "Requests by the Service that was asked. A high value is load.")
                .query("{{destination_service}}", sum_rate("destination_service", "istio_requests_total", HTTP)),
            Panel::graph(
                "Requests by response code",
                Unit::Requests,
                "Requests by the code that callers got; 0 where the caller ended first. High 5xx are failures, high 403 denials.",
            )
            .query("{{response_code}}", sum_rate("response_code", "istio_requests_total", HTTP)),
            Panel::graph(
                "Requests by flag",
                Unit::Requests,
                "Why a response is not the server's own: DENY, UH, UF, UC, UT, UO, URX, DC, LR, DPE, NR (docs/waypoints.md explains each). A high value of any but - is worth a look.",
            )
            .query("{{response_flags}}", sum_rate("response_flags", "istio_requests_total", HTTP)),
            Panel::graph(
                "Duration of requests",
                Unit::Milliseconds,
                "From the head of a request to the end of its response. A high value is a slow server more often than a slow waypoint: compare with CPU below.",
            )
            .query("p50", quantile("0.5", "", "istio_request_duration_milliseconds", HTTP))
            .query("p90", quantile("0.9", "", "istio_request_duration_milliseconds", HTTP))
            .query("p99", quantile("0.99", "", "istio_request_duration_milliseconds", HTTP)),
            Panel::graph("Requests by replica", Unit::Requests, "Requests that each replica served. A high value for one of several means that one caller sends most on few connections.")
                .query("{{pod}}", sum_rate("pod", "istio_requests_total", HTTP)),
            Panel::graph(
                "Requests in flight by replica",
                Unit::Number,
                "Requests that a replica has under way. A high value makes the operator add replicas; where it stays high, the waypoint is at its maximum.",
            )
            .query("{{pod}}", sum("pod", &format!("ambit_waypoint_requests_in_flight{{{OWN},waypoint=\"\"}}"))),
        ],
    }
}

fn trouble() -> Row {
    Row {
        title: "What they refuse and try again",
        panels: vec![
            Panel::graph(
                "Denied by rule",
                Unit::Requests,
                "Requests that a rule denied. A high value after a change of rules means that the rule hits more than it should.",
            )
            .query("{{rule}}", sum_rate("rule", "ambit_requests_denied_total", OWN)),
            Panel::graph(
                "Audited by rule",
                Unit::Requests,
                "Requests that a rule in Audit mode would deny. A high value is what enforcing the rule would break.",
            )
            .query("{{rule}}", sum_rate("rule", "ambit_audit_total", OWN)),
            Panel::graph(
                "Retries by Service",
                Unit::Requests,
                "Requests that were tried again. A high value hides failing endpoints from callers, and is load on the others.",
            )
            .query("{{service}}", sum_rate("service", "ambit_retries_total", OWN))
            .query("{{service}} (over the limit)", sum_rate("service", "ambit_retry_limit_total", OWN)),
            Panel::graph(
                "Refused by reason",
                Unit::PerSecond,
                "Connections and requests that were not served at all. A high value of overloaded is a caller at its share; of others a peer that breaks the protocol.",
            )
            .query("{{reason}}", sum_rate("reason", "ambit_waypoint_refused_total", OWN)),
            Panel::graph(
                "Loans denied",
                Unit::PerSecond,
                "Times that a connection wanted more memory than was left to lend. A high value means slow connections: raise the waypoint's memory limit, or look for readers that do not read.",
            )
            .query("{{pod}}", sum_rate("pod", "ambit_hbone_loans_denied_total", OWN)),
            Panel::graph(
                "Metrics without room",
                Unit::PerSecond,
                "Times that something was counted as unknown, since a metric had 3,000 series. A high value means that these dashboards miss names.",
            )
            .query("{{metric}}", sum_rate("metric", "ambit_metrics_overflow_total", OWN)),
        ],
    }
}

fn resources() -> Row {
    Row {
        title: "What they use",
        panels: vec![
            Panel::graph("CPU", Unit::Cores, "CPU of each replica. A high value beside few requests means large bodies or many handshakes.")
                .query("{{pod}}", cpu("pod", CONTAINER)),
            Panel::graph("Memory", Unit::Bytes, "Memory of each replica. A high value near the limit (512Mi by default) ends in an OOM kill: raise it, or lower targetInFlight.")
                .query("{{pod}}", memory("pod", CONTAINER)),
            Panel::graph(
                "Bytes held for callers",
                Unit::Bytes,
                "Bodies, heads and retries that wait or are kept, and what connections cost. A high value near half of the memory limit ends in responses 503 (UO).",
            )
            .query("{{pod}}", gauge("held_bytes")),
            Panel::graph("Connections", Unit::Number, "Callers' HBONE connections, and connections inside of them. A high value is memory: 128 KiB and 16 KiB each.")
                .query("{{pod}} HBONE", gauge("hbone_connections"))
                .query("{{pod}} clients", gauge("client_connections")),
            Panel::graph(
                "Silent connections",
                Unit::Number,
                "Connections to endpoints whose client has said nothing yet. A high value are clients that wait for the server to speak first; 1,024 is the most.",
            )
            .query("{{pod}}", gauge("silent_connections")),
            Panel::graph("Configuration", Unit::Number, "Services, policies and authorizations that each replica has. A high value is memory; replicas of one waypoint have the same.")
                .query("{{pod}} {{kind}}", sum("pod, kind", &format!("ambit_waypoint_resources{{{OWN}}}"))),
        ],
    }
}
