//! A Mesh that is being deleted goes when nothing of ours is left in any pod, nor on any node that lives.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::labels;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::index::Index;

/// What a live node still has of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// `<node>: <what>`, by node.
    pub(super) nodes: Vec<String>,
    /// Live nodes with an agent.
    pub(super) all: usize,
}

/// What is left on nodes that are Ready and have an agent: nobody else could clear up, so others are not waited for.
pub(super) fn remains(nodes: &[Node], agents: &[Pod], index: &Index) -> Remains {
    let live: BTreeSet<String> = nodes
        .iter()
        .filter(|n| is_ready(n))
        .map(ResourceExt::name_any)
        .collect();
    let mut finished = BTreeMap::new();
    for agent in agents {
        let Some(node) = agent.spec.as_ref().and_then(|s| s.node_name.clone()) else {
            continue;
        };
        if live.contains(&node) {
            let done = agent
                .annotations()
                .get(labels::UNINSTALLED)
                .is_some_and(|v| v == labels::TRUE);
            *finished.entry(node).or_insert(false) |= done;
        }
    }
    let mut remaining = Vec::new();
    for (node, done) in &finished {
        let marked = index.pods_on(node).filter(|(_, pod)| pod.marked).count();
        if marked > 0 {
            remaining.push(format!("{node}: {marked} pods to release"));
        } else if !done {
            remaining.push(format!("{node}: the agent has not finished"));
        }
    }
    Remains {
        nodes: remaining,
        all: finished.len(),
    }
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
