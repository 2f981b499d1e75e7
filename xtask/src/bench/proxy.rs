//! The ztunnel of a node.

use ambit_e2e::cluster::{Cluster, Node};
use anyhow::{Context, Result, bail};

use super::process::{Memory, Process};

/// The running ztunnel of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ztunnel {
    /// The node's name.
    pub(super) node: String,
    process: Process,
}

impl Ztunnel {
    /// The one on this node. More than one is an error: the work of a connection could not be told apart.
    pub(super) fn find(cluster: &Cluster, node: &Node) -> Result<Self> {
        let name = node.name();
        let selector = format!("--field-selector=spec.nodeName={name},status.phase=Running");
        let pods = cluster.list(&[
            "pods",
            "--namespace=ambit-system",
            "--selector=app=ztunnel",
            &selector,
        ])?;
        let [pod] = pods.as_slice() else {
            bail!(
                "{name} runs {} ztunnels; wait until a roll-out is over",
                pods.len()
            );
        };
        let uid = pod["metadata"]["uid"].as_str().context("a pod without a UID")?;
        let pid = node.container_pid(uid, "ztunnel")?;
        Ok(Self {
            node: name,
            process: Process::new(pid),
        })
    }

    /// Processor time since it started, in seconds.
    pub(super) fn cpu(&self) -> Result<f64> {
        self.process.cpu().with_context(|| self.ended())
    }

    /// Its memory.
    pub(super) fn memory(&self) -> Result<Memory> {
        self.process.memory().with_context(|| self.ended())
    }

    fn ended(&self) -> String {
        format!("the ztunnel of {}; did it end during the benchmark?", self.node)
    }
}
