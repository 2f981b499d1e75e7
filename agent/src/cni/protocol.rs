//! The protocol between plugin and agent: a request and a response, each one line of JSON, per connection.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Version of this protocol. The agent installs the plugin, so versions differ only while an agent is being replaced.
pub(super) const VERSION: u32 = 1;
/// Longest line, in bytes.
pub(super) const MAX_LINE: u64 = 64 * 1024;

/// The parts of a CNI call that the agent needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The version of the protocol.
    pub version: u32,
    /// The command.
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
    /// `K8S_POD_UID`; runtimes older than containerd 1.4 do not send it.
    #[serde(default)]
    pub pod_uid: Option<String>,
    /// The addresses that earlier plugins assigned to the pod.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// GC: the sandboxes that still exist.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub valid: BTreeSet<String>,
}

/// The calls that the plugin forwards to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A sandbox was created.
    Add,
    /// A sandbox is being removed.
    Del,
    /// Whether pods can be started.
    Status,
    /// All sandboxes except the listed ones are gone.
    Gc,
}

/// The agent's response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Answer {
    /// ADD: the pod is captured; its rules are in force.
    Captured,
    /// ADD: the pod is not to be captured. DEL, GC: done. STATUS: pods can be started.
    Passed,
    /// ADD: try again later.
    Failed {
        /// The reason, in CamelCase.
        reason: String,
        /// The explanation, for a person.
        message: String,
    },
}
