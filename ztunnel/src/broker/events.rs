//! Handling of the agent's messages.

use std::sync::Arc;

use ambit_wire::broker::PodIdentity;

use crate::sockets::Handed;

/// Descriptors that a pod needs without any connection: its listeners twice (ours, and those of the accept loops),
/// seeds, and the first sockets made from them.
pub(crate) const DESCRIPTORS_PER_POD: usize = 12;

/// Why a pod is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error(transparent)]
    Identity(#[from] ambit_identity::ParseIdentityError),
    #[error("its listeners cannot be used: {0}")]
    Listeners(#[from] std::io::Error),
    #[error("{0} descriptors are in use, and a pod needs {DESCRIPTORS_PER_POD}: RLIMIT_NOFILE is too low")]
    Descriptors(usize),
    #[error("this ztunnel is stopping")]
    Ending,
}

/// Handles the agent's messages.
pub(crate) trait PodEvents: Send + Sync + 'static {
    /// The pods served, with the sockets that the agent passed for them.
    fn held(&self) -> Vec<(PodIdentity, Arc<Handed>)>;
    /// Serves a pod, or continues to serve it with other listeners.
    fn add(&self, pod: PodIdentity, handed: Handed) -> Result<(), AddError>;
    /// Stops serving a pod; the future resolves when its last connection has ended.
    fn remove(&self, uid: &str, force: bool) -> impl Future<Output = ()> + Send + 'static;
    /// A new agent is connected, and has been sent the listeners held here.
    fn connected(&self);
    /// The agent has named all pods: `named`. All others are removed.
    fn snapshot_done(&self, named: &[String]);
    /// No agent is connected.
    fn disconnected(&self);
}
