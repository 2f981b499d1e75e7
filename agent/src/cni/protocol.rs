//! What the plugin asks and the agent answers: one line of JSON each, one question a connection.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Version of this protocol. The agent installs the plugin, so they differ only while an agent is being replaced.
pub(super) const VERSION: u32 = 1;
/// Longest line, in bytes.
pub(super) const MAX_LINE: u64 = 64 * 1024;

/// A CNI call, as far as the agent needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The protocol's version.
    pub version: u32,
    /// What is called.
    pub operation: Operation,
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: String,
    /// `CNI_NETNS`; may be empty on DEL.
    #[serde(default)]
    pub netns: PathBuf,
    /// `K8S_POD_NAMESPACE`.
    #[serde(default)]
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    #[serde(default)]
    pub pod_name: String,
    /// `K8S_POD_UID`; runtimes older than containerd 1.4 do not say it.
    #[serde(default)]
    pub pod_uid: Option<String>,
    /// The addresses that earlier plugins gave the pod.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// GC: the sandboxes that still are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub valid: BTreeSet<String>,
}

/// The calls that reach the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A sandbox was made.
    Add,
    /// A sandbox goes.
    Del,
    /// Whether pods can be started.
    Status,
    /// Sandboxes other than those named are gone.
    Gc,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Answer {
    /// ADD: the pod is captured: rules are in force.
    Captured,
    /// ADD: the pod is not to be captured. DEL, GC: noted. STATUS: they can.
    Passed,
    /// ADD: try again later.
    Failed {
        /// CamelCase.
        reason: String,
        /// For a person.
        message: String,
    },
}
