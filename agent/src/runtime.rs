//! Queries to the container runtime: the sandbox of a pod, and whether a process is a ztunnel.

mod cri;

pub use cri::CriRuntime;
pub(crate) use cri::in_this_mount_namespace;

use std::path::PathBuf;

/// A pod's running sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id, which CNI calls have, too.
    pub id: String,
    /// Possible paths of its network namespace, best first; empty for a pod on the host network.
    pub netns_paths: Vec<PathBuf>,
}

/// A failed query to the container runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The call failed.
    #[error("container runtime: {call}: {}", .status.message())]
    Call {
        /// The call.
        call: &'static str,
        /// The status that it returned.
        status: Box<tonic::Status>,
    },
    /// The verbose part of a response does not have the format of containerd and CRI-O.
    #[error("container runtime: no {what} in the verbose status of {id}")]
    NoInfo {
        /// The missing field.
        what: &'static str,
        /// The sandbox or container.
        id: String,
    },
}

/// The calls to the container runtime that the agent needs.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The ready sandbox of the pod with this UID, if there is one.
    async fn sandbox(&self, pod_uid: &str) -> Result<Option<Sandbox>, RuntimeError>;

    /// Whether `pid` (in this process's pid namespace) is the first process of a running ztunnel container.
    async fn is_ztunnel(&self, pid: i32) -> Result<bool, RuntimeError>;
}
