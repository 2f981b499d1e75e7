//! A Mesh that is being deleted goes when nothing of ours is left in any pod, nor on any node that lives.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::labels;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::index::Index;

/// Nodes that still have something of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Waited for: `<node>: <what>`, by node.
    pub(super) nodes: Vec<String>,
    /// Not waited for: they are not Ready, or there is no DaemonSet any more to put an agent there.
    pub(super) given_up: Vec<String>,
}

/// What is known about agents.
pub(super) struct Agents<'a> {
    /// Their pods.
    pub(super) pods: &'a [Pod],
    /// Nodes on which one has done its work, and not yet undone it.
    pub(super) installed: &'a BTreeSet<String>,
    /// Their DaemonSet is there.
    pub(super) deployed: bool,
}

/// What is left on the nodes. An agent that never came to run has done nothing, and is not waited for.
pub(super) fn remains(nodes: &[Node], agents: &Agents<'_>, index: &Index) -> Remains {
    let ready: BTreeMap<String, bool> = nodes.iter().map(|n| (n.name_any(), is_ready(n))).collect();
    let mut remains = Remains {
        nodes: Vec::new(),
        given_up: Vec::new(),
    };
    for (node, ready) in &ready {
        let installed = agents.installed.contains(node);
        let here = || {
            agents
                .pods
                .iter()
                .filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(node))
        };
        let running: Vec<_> = here().filter(|p| is_running(p)).collect();
        let marked = index.pods_on(node).filter(|(_, pod)| pod.marked).count();
        let unfinished = if running.is_empty() {
            installed
        } else {
            !running.iter().all(|p| has_finished(p))
        };
        let unmarked = running.is_empty() || marked == 0;
        if !unfinished && unmarked {
            continue;
        }
        let running = !running.is_empty();
        if !ready || !(agents.deployed || running) {
            remains.given_up.push(node.clone());
        } else if marked > 0 {
            remains.nodes.push(format!("{node}: {marked} pods to release"));
        } else if running {
            remains.nodes.push(format!("{node}: the agent has not finished"));
        } else {
            remains.nodes.push(format!("{node}: the agent does not run"));
        }
    }
    remains
}

fn has_finished(agent: &Pod) -> bool {
    agent
        .annotations()
        .get(labels::UNINSTALLED)
        .is_some_and(|v| v == labels::TRUE)
}

fn is_running(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    containers
        .into_iter()
        .flatten()
        .any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests;
