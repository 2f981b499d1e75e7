//! What the mesh uses, and whose traffic it is.

use super::model::{Dashboard, Panel, Row, Unit, Variable};
use super::query::{cpu, memory, rate, sum};

const ZTUNNELS: &str = "container=\"ztunnel\"";
const WAYPOINTS: &str = "container=\"waypoint\"";
/// Containers with these names are in pods of others, too.
const OTHERS: &str = "container=~\"agent|control|operator\",pod=~\"ambit-.*\"";
const HOURS_A_MONTH: u32 = 730;
const GIB: u64 = 1 << 30;

/// CPU of all that Ambit runs.
fn all_cpu(by: &str) -> String {
    let parts = [ZTUNNELS, WAYPOINTS, OTHERS].map(|part| rate("container_cpu_usage_seconds_total", part));
    sum(by, &parts.join(" or "))
}

/// Its memory.
fn all_memory(by: &str) -> String {
    let parts =
        [ZTUNNELS, WAYPOINTS, OTHERS].map(|part| format!("container_memory_working_set_bytes{{{part}}}"));
    sum(by, &parts.join(" or "))
}

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "cost",
        title: "Ambit / Cost",
        description: "CPU and memory of the mesh, by part and by namespace. The kubelet's container metrics (cAdvisor) have to be scraped. Prices are yours to set.",
        variables: vec![
            Variable::Text {
                name: "core_hour",
                title: "Price of a core for an hour",
                value: "0.03",
            },
            Variable::Text {
                name: "gib_hour",
                title: "Price of a GiB for an hour",
                value: "0.004",
            },
        ],
        rows: vec![glance(), parts(), namespaces()],
    }
}

fn glance() -> Row {
    let month = format!(
        "({} * $core_hour + {} / {GIB} * $gib_hour) * {HOURS_A_MONTH}",
        all_cpu(""),
        all_memory("")
    );
    Row {
        title: "At a glance",
        panels: vec![
            Panel::stat("CPU", Unit::Cores, "CPU of all of the mesh. A high value follows new connections more than bytes.")
                .query("cores", all_cpu("")),
            Panel::stat("Memory", Unit::Bytes, "Memory of all of the mesh. A high value follows open connections, and pods and Services in the cluster.")
                .query("memory", all_memory("")),
            Panel::stat("A month at this rate", Unit::Money, "What the CPU and memory of now would cost in a month, at the prices above. A high value: see which part below.")
                .query("month", month),
            Panel::stat(
                "Memory per captured pod",
                Unit::Bytes,
                "Memory of ztunnels and waypoints, divided by captured pods. A high value is a mesh with few pods on many nodes: compare with the memory of a sidecar.",
            )
            .query(
                "memory",
                format!("({} + ({} or vector(0))) / (sum(ambit_ztunnel_pods) > 0)", memory("", ZTUNNELS), memory("", WAYPOINTS)),
            ),
            Panel::stat(
                "CPU per 1,000 conn/s",
                Unit::Cores,
                "CPU of ztunnels, divided by new connections (each counted at either end). A high value at low load is what ztunnels use when idle.",
            )
            .query(
                "cores",
                format!(
                    "1000 * {} / ({} > 0)",
                    cpu("", ZTUNNELS),
                    sum("", &rate("istio_tcp_connections_opened_total", "reporter=~\"source|destination\""))
                ),
            ),
            Panel::stat(
                "CPU per 1,000 req/s",
                Unit::Cores,
                "CPU of waypoints, divided by requests. A high value at low load is what waypoints use when idle.",
            )
            .query(
                "cores",
                format!(
                    "1000 * {} / ({} > 0)",
                    cpu("", WAYPOINTS),
                    sum("", &rate("istio_requests_total", "reporter=\"waypoint\""))
                ),
            ),
        ],
    }
}

fn parts() -> Row {
    Row {
        title: "By part",
        panels: vec![
            Panel::graph("CPU by part", Unit::Cores, "CPU of ztunnels, waypoints, agents, control planes and operators. A high value of control is churn, of the others load.")
                .query("{{container}}", all_cpu("container")),
            Panel::graph("Memory by part", Unit::Bytes, "Memory of ztunnels, waypoints, agents, control planes and operators. A high value of control and operator is the size of the cluster.")
                .query("{{container}}", all_memory("container")),
            Panel::graph("CPU of a node's ztunnel", Unit::Cores, "CPU of each ztunnel. A high value on one node is where the busy pods are.")
                .query("{{pod}}", cpu("pod", ZTUNNELS)),
        ],
    }
}

fn namespaces() -> Row {
    // Its part of all bytes, at the destination.
    let bytes = |by: &str| {
        sum(
            by,
            &format!(
                "{} + {}",
                rate("istio_tcp_sent_bytes_total", "reporter=\"destination\""),
                rate("istio_tcp_received_bytes_total", "reporter=\"destination\"")
            ),
        )
    };
    let part = format!(
        "{} / scalar({} > 0)",
        bytes("destination_workload_namespace"),
        bytes("")
    );
    Row {
        title: "By namespace",
        panels: vec![
            Panel::graph("CPU of waypoints by namespace", Unit::Cores, "CPU of the waypoints of a namespace. A high value is requests to its Services.")
                .query("{{namespace}}", cpu("namespace", WAYPOINTS)),
            Panel::graph("Memory of waypoints by namespace", Unit::Bytes, "Memory of the waypoints of a namespace. A high value is open connections, or many replicas.")
                .query("{{namespace}}", memory("namespace", WAYPOINTS)),
            Panel::graph(
                "CPU of ztunnels by namespace",
                Unit::Cores,
                "CPU of all ztunnels, shared out by bytes to and from the namespace's pods. An estimate: new connections cost more than bytes. A high value is a busy namespace.",
            )
            .query("{{destination_workload_namespace}}", format!("{part} * scalar({})", cpu("", ZTUNNELS))),
        ],
    }
}
