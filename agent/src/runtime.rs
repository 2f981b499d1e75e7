//! What the agent asks the container runtime: where a pod's sandbox is, and whether a process is a ztunnel.

mod cri;

pub use cri::CriRuntime;
pub(crate) use cri::in_this_mount_namespace;

use std::path::PathBuf;

/// A pod's running sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id, which the CNI calls have too.
    pub id: String,
    /// Paths at which its network namespace may be found, best first; none for a pod on the host's network.
    pub netns_paths: Vec<PathBuf>,
}

/// The container runtime did not answer, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The call failed.
    #[error("container runtime: {call}: {}", .status.message())]
    Call {
        /// Which.
        call: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// The verbose part of an answer is not as containerd and CRI-O write it.
    #[error("container runtime: no {what} in the verbose status of {id}")]
    NoInfo {
        /// What is missing.
        what: &'static str,
        /// Of which sandbox or container.
        id: String,
    },
}

/// The container runtime, as far as the agent needs it.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// The ready sandbox of the pod with this UID, if there is one.
    async fn sandbox(&self, pod_uid: &str) -> Result<Option<Sandbox>, RuntimeError>;

    /// Whether `pid` (in this process's pid namespace) is the first process of a running ztunnel container.
    async fn is_ztunnel(&self, pid: i32) -> Result<bool, RuntimeError>;
}
