//! What there is of a cluster, and in which state.

use std::fmt;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::{Cluster, cgroup, control_plane, network, process};
use crate::shell;

/// The state of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The cluster's name.
    pub name: String,
    /// Whether anything of it is there.
    pub exists: bool,
    /// Whether it was made to its end.
    pub complete: bool,
    /// Programs that should run and do not.
    pub not_running: Vec<String>,
    /// What is wrong with the API server.
    pub api_error: Option<String>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// How many processes, network namespaces and cgroups it has.
    pub counts: (usize, usize, usize),
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name in Kubernetes.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether Kubernetes calls it Ready.
    pub ready: bool,
}

impl Status {
    /// Whether it was made to its end, everything runs and every node is Ready.
    pub fn healthy(&self) -> bool {
        self.complete && self.ready()
    }

    pub(super) fn ready(&self) -> bool {
        self.exists
            && self.not_running.is_empty()
            && self.api_error.is_none()
            && self.nodes.iter().all(|node| node.ready)
    }

    pub(super) fn absent(name: &str) -> Self {
        Self {
            name: name.into(),
            exists: false,
            complete: false,
            not_running: Vec::new(),
            api_error: None,
            nodes: Vec::new(),
            counts: (0, 0, 0),
        }
    }
}

impl Cluster {
    pub(super) fn inspect(&self) -> Status {
        let Some(layout) = &self.layout else {
            return Status::absent(self.name());
        };
        let processes = process::list(&layout.dir).unwrap_or_default();
        let mut expected: Vec<String> = control_plane::ROLES.iter().map(|role| (*role).into()).collect();
        for index in 1..=layout.nodes {
            let programs = ["init", "containerd", "kubelet", "kube-proxy"];
            expected.extend(programs.map(|program| format!("{}.{program}", layout.node_name(index))));
        }
        expected.retain(|role| !processes.iter().any(|process| process.role == *role));
        let ready = control_plane::ready(layout).and_then(|()| {
            let nodes = shell::run(self.kubectl().args(["get", "nodes", "--output=json"]))?;
            Ok(ready_nodes(&serde_json::from_str(&nodes)?))
        });
        let (ready, api_error) = match ready {
            Ok(ready) => (ready, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let nodes = self.nodes().into_iter().map(|node| NodeStatus {
            ready: ready.contains(&node.name()),
            ip: node.ip(),
            name: node.name(),
        });
        Status {
            name: layout.name.clone(),
            exists: true,
            complete: layout.complete().exists(),
            not_running: expected,
            api_error,
            nodes: nodes.collect(),
            counts: (
                processes.len(),
                network::namespaces(layout).len(),
                cgroup::present(&layout.cgroup()).unwrap_or_default().len(),
            ),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.exists {
            return write!(out, "cluster {}: not there", self.name);
        }
        let health = if self.healthy() { "healthy" } else { "not healthy" };
        let (processes, namespaces, cgroups) = self.counts;
        write!(
            out,
            "cluster {}: {health} ({processes} processes, {namespaces} network namespaces, {cgroups} cgroups)",
            self.name
        )?;
        for node in &self.nodes {
            let ready = if node.ready { "Ready" } else { "not Ready" };
            write!(out, "\n  {} {} {ready}", node.name, node.ip)?;
        }
        if !self.complete {
            write!(out, "\n  it was not completed")?;
        }
        if !self.not_running.is_empty() {
            write!(out, "\n  not running: {}", self.not_running.join(", "))?;
        }
        if let Some(error) = &self.api_error {
            write!(out, "\n  API server: {error}")?;
        }
        Ok(())
    }
}

fn ready_nodes(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = items.iter().filter(|node| {
        let conditions = node["status"]["conditions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    ready
        .filter_map(|node| Some(node["metadata"]["name"].as_str()?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_true_condition_makes_a_node_ready() {
        let node = |name: &str, status: &str| {
            json!({ "metadata": { "name": name }, "status": { "conditions": [
                { "type": "DiskPressure", "status": "True" }, { "type": "Ready", "status": status },
            ]}})
        };
        let list =
            json!({ "items": [node("n1", "True"), node("n2", "Unknown"), { "metadata": { "name": "n3" } }] });
        assert_eq!(ready_nodes(&list), ["n1"]);
    }

    #[test]
    fn missing_cluster_is_not_healthy() {
        let status = Status::absent("x");
        assert!(!status.healthy());
        assert_eq!(status.to_string(), "cluster x: not there");
    }
}
