//! The node proxies.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{cpu, memory, or_zero, sum, sum_rate};

const OWN: &str = "pod=~\"$pod\"";
const CONTAINER: &str = "container=\"ztunnel\",pod=~\"$pod\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "ztunnel",
        title: "Ambit / Ztunnel",
        description: "The ztunnels, one on each node: what they carry, what they refuse, and what they use.",
        variables: vec![Variable::many("pod", "Ztunnel", ("ambit_ztunnel_pods", "pod"))],
        rows: vec![glance(), traffic(), trouble(), resources()],
    }
}

fn gauge(name: &str) -> String {
    sum("pod", &format!("ambit_ztunnel_{name}{{{OWN}}}"))
}

fn glance() -> Row {
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("Ztunnels", Unit::Number, "Ztunnels that are scraped: one for each node, more only while a new version takes over.")
                .query("ztunnels", format!("count(ambit_ztunnel_pods{{{OWN}}})")),
            Panel::stat(
                "Without a control plane",
                Unit::Number,
                "Ztunnels without a stream to a control plane. A high value means that new pods, rules and certificates do not reach them; what they have goes on.",
            )
            .query("disconnected", format!("count(ambit_ztunnel_control_plane_connected{{{OWN}}} == 0) or vector(0)"))
            .bad_above(1.0),
            Panel::stat(
                "Without an agent",
                Unit::Number,
                "Ztunnels that the agent of their node does not reach. A high value means that new pods wait for their capture.",
            )
            .query("disconnected", format!("count(ambit_ztunnel_agent_connected{{{OWN}}} == 0) or vector(0)"))
            .bad_above(1.0),
            Panel::stat("Captured pods", Unit::Number, "Pods whose traffic these ztunnels carry. A high value is the size of the mesh.")
                .query("pods", format!("sum(ambit_ztunnel_pods{{{OWN}}})")),
            Panel::stat(
                "Open connections",
                Unit::Number,
                "Connections that are open, each counted at either end. A high value that only grows is an application that leaks connections.",
            )
            .query(
                "open",
                format!("sum(istio_tcp_connections_opened_total{{{OWN},reporter!=\"waypoint\"}}) - sum(istio_tcp_connections_closed_total{{{OWN},reporter!=\"waypoint\"}})"),
            ),
            Panel::stat(
                "Log lines dropped",
                Unit::PerSecond,
                "Log lines that nobody read fast enough. A high value means that the access log has holes: the node's disk or the container runtime is slow.",
            )
            .query("dropped", format!("sum(rate(ambit_log_dropped_total{{{OWN}}}[$__rate_interval]))")),
        ],
    }
}

fn traffic() -> Row {
    Row {
        title: "What they carry",
        panels: vec![
            Panel::graph("New connections", Unit::PerSecond, "Connections opened, each counted at either end. A high value is load; connections cost more than bytes.")
                .query("{{pod}}", sum_rate("pod", "istio_tcp_connections_opened_total", OWN)),
            Panel::graph("Connections by way", Unit::PerSecond, "Connections by who counts them (source or destination) and whether they have mutual TLS. A high plaintext value is traffic from and to outside of the mesh.")
                .query(
                    "{{reporter}} {{connection_security_policy}}",
                    sum_rate("reporter, connection_security_policy", "istio_tcp_connections_opened_total", OWN),
                ),
            Panel::graph("Bytes", Unit::BytesPerSecond, "Bytes in both directions, each counted at either end. A high value is load.")
                .query("{{pod}} received", sum_rate("pod", "istio_tcp_received_bytes_total", OWN))
                .query("{{pod}} sent", sum_rate("pod", "istio_tcp_sent_bytes_total", OWN)),
            Panel::graph(
                "HBONE connections",
                Unit::Number,
                "Pooled HTTP/2 connections to other nodes and to waypoints, each for one pair of identities. A high value means many pairs, and memory for each.",
            )
            .query("{{pod}}", gauge("hbone_connections")),
            Panel::graph(
                "Captured and draining pods",
                Unit::Number,
                "Pods that are served, and released pods that have connections left. A high value of the latter are long connections of pods that left the mesh.",
            )
            .query("{{pod}} captured", gauge("pods"))
            .query("{{pod}} draining", gauge("draining_pods")),
            Panel::graph(
                "Pods that wait for capture",
                Unit::Number,
                "Pods whose sockets the ztunnel has been sent and does not serve yet. A high value that stays is a ztunnel without CPU or descriptors.",
            )
            .query("{{pod}}", sum("pod", &format!("workload_manager_pending_proxy_count{{{OWN}}}"))),
            Panel::graph(
                "Configuration messages",
                Unit::PerSecond,
                "Messages from the control plane by type. A high value is churn: pods that come and go.",
            )
            .query("{{url}}", sum_rate("url", "istio_xds_message_total", OWN)),
            Panel::graph(
                "Configuration streams ended",
                Unit::PerSecond,
                "Streams to the control plane that ended. A high value is a control plane that restarts, or a network that cuts connections.",
            )
            .query("{{pod}}", sum_rate("pod", "istio_xds_connection_terminations_total", OWN)),
            Panel::graph(
                "Configuration",
                Unit::Number,
                "Workloads, Services and authorization policies that each ztunnel knows. A high value is memory; values that differ for long mean that one is behind.",
            )
            .query("{{pod}} workloads", gauge("workloads"))
            .query("{{pod}} services", gauge("services"))
            .query("{{pod}} policies", gauge("policies")),
        ],
    }
}

fn trouble() -> Row {
    Row {
        title: "What they refuse",
        panels: vec![
            Panel::graph(
                "Denied by rule",
                Unit::PerSecond,
                "Connections that a rule denied. A high value after a change of rules means that the rule hits more than it should; ambit-system/strict-mtls is plaintext under Strict.",
            )
            .query("{{policy}}", sum_rate("policy", "ambit_ztunnel_connections_denied_total", OWN)),
            Panel::graph(
                "Audited by rule",
                Unit::PerSecond,
                "Connections that a rule in Audit mode would deny. A high value is what enforcing the rule would break.",
            )
            .query("{{policy}}", sum_rate("policy", "ambit_ztunnel_audit_denials_total", OWN)),
            Panel::graph(
                "Refused by reason",
                Unit::PerSecond,
                "Connections that were not served at all. A high value is a limit that is reached (handshakes, pod_limit, descriptors), or a peer that breaks the protocol (tls, request, authority).",
            )
            .query(
                "{{direction}} {{reason}}",
                sum_rate("direction, reason", "ambit_ztunnel_connections_refused_total", OWN),
            ),
            Panel::graph(
                "Failed by reason",
                Unit::PerSecond,
                "Connections whose destination was not reached. A high value is a server that is down, a network policy in the way, or a waypoint without replicas (waypoint_unreachable).",
            )
            .query("{{reporter}} {{reason}}", sum_rate("reporter, reason", "ambit_ztunnel_connections_failed_total", OWN)),
            Panel::graph(
                "Loans denied",
                Unit::PerSecond,
                "Times that a connection wanted more memory than was left to lend. A high value means slow connections: raise the ztunnel's memory limit, or look for applications that do not read.",
            )
            .query("{{pod}}", sum_rate("pod", "ambit_hbone_loans_denied_total", OWN)),
            Panel::graph(
                "Metrics without room",
                Unit::PerSecond,
                "Times that something was counted as unknown, since a metric had 10,000 series. A high value means that these dashboards miss names; drop labels, or ask for fewer.",
            )
            .query("{{metric}}", sum_rate("metric", "ambit_metrics_overflow_total", OWN)),
        ],
    }
}

fn resources() -> Row {
    Row {
        title: "What they use",
        panels: vec![
            Panel::graph("CPU", Unit::Cores, "CPU of each ztunnel. A high value beside few bytes means many new connections: clients that reuse none.")
                .query("{{pod}}", cpu("pod", CONTAINER)),
            Panel::graph("Memory", Unit::Bytes, "Memory of each ztunnel. A high value near the limit, if the Mesh sets one, ends in an OOM kill of the node's proxy.")
                .query("{{pod}}", memory("pod", CONTAINER)),
            Panel::graph(
                "Memory lent to connections",
                Unit::Bytes,
                "Memory lent for wide windows and large buffers. A high value means fast long transfers, or peers that do not read; a quarter of the memory limit is the most.",
            )
            .query("{{pod}}", sum("pod", &format!("ambit_hbone_lent_bytes{{{OWN},namespace!=\"\"}}"))),
            Panel::graph("Descriptors", Unit::Share, "Open descriptors, of as many as the process may have. A high value ends in refusals (descriptors), from 80% on.")
                .query(
                    "{{pod}}",
                    format!("max by (pod) (process_open_fds{{{OWN},pod=~\"ztunnel-.*\"}} / process_max_fds{{{OWN},pod=~\"ztunnel-.*\"}})"),
                ),
            Panel::graph(
                "Sockets in pods",
                Unit::PerSecond,
                "Sockets for outgoing connections: made, reused, or closed after use. A high value of closed beside made means that connections come in bursts.",
            )
            .query("{{how}}", sum_rate("how", "ambit_ztunnel_sockets_total", OWN)),
            Panel::graph(
                "Log lines suppressed",
                Unit::PerSecond,
                "Log lines about refused peers beyond the first of each. A high value means that somebody keeps trying: see what is refused above.",
            )
            .query("{{pod}}", or_zero(&sum_rate("pod", "ambit_log_suppressed_total", OWN))),
        ],
    }
}
