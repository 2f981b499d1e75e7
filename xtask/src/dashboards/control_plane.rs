//! Control plane and operator.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{cpu, memory, quantile, sum, sum_rate};

const OWN: &str = "namespace=\"$system\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "control-plane",
        title: "Ambit / Control plane",
        description: "The control plane, which sends configuration and certificates, and the operator, which writes objects.",
        variables: vec![Variable::one(
            "system",
            "Ambit's namespace",
            ("ambit_operator_leader", "namespace"),
        )],
        rows: vec![glance(), configuration(), kubernetes(), resources()],
    }
}

fn glance() -> Row {
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Control planes", Unit::Number, "Replicas of the control plane that are scraped; two by default. Each serves everything, so one is enough to go on.")
                .query("replicas", format!("count(ambit_certificates_issued_total{{{OWN}}})"))
                .bad_below(1.0),
            Panel::stat(
                "Leading operators",
                Unit::Number,
                "Replicas of the operator that hold the Lease: 1. At 0 for long, nothing is written: no new waypoints, no statuses, no roll-outs.",
            )
            .query("leaders", format!("sum(ambit_operator_leader{{{OWN}}})"))
            .bad_below(1.0),
            Panel::stat("Streams", Unit::Number, "Agents, ztunnels and waypoints that have a configuration stream open. A high value is the size of the mesh.")
                .query("streams", format!("sum(ambit_control_streams{{{OWN}}})")),
            Panel::stat("Certificates", Unit::PerSecond, "Certificates issued. A high value is a roll-out: each identity on each node has one, renewed after half of its life.")
                .query("issued", format!("sum(rate(ambit_certificates_issued_total{{{OWN}}}[$__rate_interval]))")),
            Panel::stat(
                "Configuration rejected",
                Unit::PerSecond,
                "Configuration that a proxy or agent could not apply. A high value is a bug, or programs of different versions.",
            )
            .query("rejected", format!("(sum(rate(ambit_config_rejected_total{{{OWN}}}[$__rate_interval])) or vector(0))"))
            .bad_above(0.001),
            Panel::stat(
                "Calls refused",
                Unit::PerSecond,
                "Calls that the control plane refused. A high value is a pod without the right to what it asks for, or a limit that is reached.",
            )
            .query("refused", format!("(sum(rate(ambit_control_refused_total{{{OWN}}}[$__rate_interval])) or vector(0))")),
        ],
    }
}

fn configuration() -> Row {
    Row {
        title: "Configuration and certificates",
        panels: vec![
            Panel::graph(
                "From a change to its acknowledgement, p99",
                Unit::Seconds,
                "How long it takes until proxies and agents work with a change. A high value is a control plane without CPU, or proxies that are slow to apply what they are sent.",
            )
            .query("{{role}}", quantile("0.99", "role", "ambit_xds_change_to_ack_seconds", OWN)),
            Panel::graph("Streams by role", Unit::Number, "Open configuration streams. A high value is the size of the mesh; one agent and one ztunnel on each node.")
                .query("{{role}}", sum("role", &format!("ambit_control_streams{{{OWN}}}"))),
            Panel::graph(
                "Streams by replica",
                Unit::Number,
                "Open configuration streams of each control plane. A high value on one of two follows a restart of the other: streams move as they end.",
            )
            .query("{{pod}}", sum("pod", &format!("ambit_control_streams{{{OWN}}}"))),
            Panel::graph(
                "Resources sent by role",
                Unit::PerSecond,
                "Configuration resources and removals that were sent. A high value is churn: pods that come and go, or a proxy that begins anew.",
            )
            .query("{{role}}", sum_rate("role", "ambit_config_resources_sent_total", OWN)),
            Panel::graph(
                "Calls refused by reason",
                Unit::PerSecond,
                "Calls that the control plane refused. A high value of limit is too many connections or calls; of others a pod without the right to what it asks for.",
            )
            .query("{{reason}}", sum_rate("reason", "ambit_control_refused_total", OWN)),
            Panel::graph(
                "Configuration rejected by type",
                Unit::PerSecond,
                "Configuration that a proxy or agent could not apply. A high value is a bug, or programs of different versions; its log has the reason.",
            )
            .query("{{role}} {{type_url}}", sum_rate("role, type_url", "ambit_config_rejected_total", OWN)),
            Panel::graph(
                "Certificates refused by reason",
                Unit::PerSecond,
                "Requests for certificates that were refused. A high value is a node that asks for identities of pods that it does not run, or a clock that is wrong.",
            )
            .query("{{reason}}", sum_rate("reason", "ambit_certificates_refused_total", OWN)),
            Panel::graph(
                "Life of the authority",
                Unit::Seconds,
                "How long the certificate of the mesh's authority is valid yet. A high value is good; at 0 no certificate is valid any more.",
            )
            .query("authority", format!("min(ambit_ca_expiry_timestamp_seconds{{{OWN}}} > 0) - time()")),
            Panel::graph(
                "Captures recorded",
                Unit::PerSecond,
                "Reports of agents on captured pods, by whether they were recorded on the pod. A high value of failed means that the API server refuses or is slow.",
            )
            .query("{{result}}", sum_rate("result", "ambit_capture_reports_total", OWN)),
        ],
    }
}

fn kubernetes() -> Row {
    Row {
        title: "Reconciliation and the Kubernetes API",
        panels: vec![
            Panel::graph(
                "Queue of the operator",
                Unit::Number,
                "The Mesh and namespaces that are due, running, or waiting after a failure (retry). A high value that stays means that statuses and waypoints are late.",
            )
            .query("{{state}}", sum("state", &format!("ambit_operator_queue_depth{{{OWN}}}"))),
            Panel::graph(
                "Duration of a reconciliation, p99",
                Unit::Seconds,
                "One pass in a hundred takes longer, by what is reconciled. A high value is a slow API server, or namespaces with many waypoints.",
            )
            .query("{{kind}}", quantile("0.99", "kind", "ambit_operator_reconcile_duration_seconds", OWN)),
            Panel::graph(
                "Reconciliations that failed",
                Unit::PerSecond,
                "Passes that failed and are tried again, by what was reconciled and why. A few conflicts are usual; a high value is an object that the API server refuses.",
            )
            .query("{{kind}} {{reason}}", sum_rate("kind, reason", "ambit_operator_reconcile_errors_total", OWN)),
            Panel::graph(
                "Requests by method",
                Unit::Requests,
                "Requests of control planes and operators to the API server. A high value of PATCH while nothing changes is two writers that undo each other.",
            )
            .query("{{method}}", sum_rate("method", "ambit_operator_api_requests_total", OWN)),
            Panel::graph(
                "Requests by outcome",
                Unit::Requests,
                "The same, by what became of them. A few refused are usual (404, 409); a high value is an API server that is overloaded, or rights that are missing.",
            )
            .query("{{outcome}}", sum_rate("outcome", "ambit_operator_api_requests_total", OWN)),
            Panel::graph(
                "Requests in flight at waypoints",
                Unit::Number,
                "What the operator scales waypoints by: requests under way, by waypoint. A high value makes it add replicas.",
            )
            .query(
                "{{exported_namespace}}/{{waypoint}}",
                sum("exported_namespace, waypoint", &format!("ambit_waypoint_requests_in_flight{{{OWN},waypoint!=\"\"}}")),
            ),
        ],
    }
}

fn resources() -> Row {
    let containers = "namespace=\"$system\",pod=~\"ambit-.*\",container=~\"control|operator|agent\"";
    Row {
        title: "What they use",
        panels: vec![
            Panel::graph("CPU", Unit::Cores, "CPU of control planes, operators and agents. A high value is churn in the cluster; idle, it is next to nothing.")
                .query("{{pod}}", cpu("pod", containers)),
            Panel::graph(
                "Memory",
                Unit::Bytes,
                "Memory of control planes, operators and agents. Control planes and operators have an index of all pods and Services: near their limit (512Mi by default), raise it.",
            )
            .query("{{pod}}", memory("pod", containers)),
            Panel::graph(
                "Log lines dropped and suppressed",
                Unit::PerSecond,
                "Log lines that nobody read fast enough, and lines about refused peers beyond the first. A high value means that logs have holes, or that somebody keeps trying.",
            )
            .query("{{pod}} dropped", sum_rate("pod", "ambit_log_dropped_total", &format!("{OWN},pod=~\"ambit-.*\"")))
            .query("{{pod}} suppressed", sum_rate("pod", "ambit_log_suppressed_total", &format!("{OWN},pod=~\"ambit-.*\""))),
        ],
    }
}
