//! What the agent's messages lead to.

use std::sync::Arc;

use ambit_wire::broker::PodIdentity;

use crate::sockets::Handed;

/// Descriptors that a pod takes without any connection: its listeners twice (ours, and the accept loops'), seeds, and what sockets are made
/// from.
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

/// What the agent's messages lead to.
pub(crate) trait PodEvents: Send + Sync + 'static {
    /// The pods served, with what the agent handed over for them.
    fn held(&self) -> Vec<(PodIdentity, Arc<Handed>)>;
    /// Serves a pod, or goes on to serve it with other listeners.
    fn add(&self, pod: PodIdentity, handed: Handed) -> Result<(), AddError>;
    /// Stops to serve a pod; the future ends when none of its connections is left.
    fn remove(&self, uid: &str, force: bool) -> impl Future<Output = ()> + Send + 'static;
    /// There is a new agent, which has been told what is held.
    fn connected(&self);
    /// The agent has named all pods: `named`. Others are gone.
    fn snapshot_done(&self, named: &[String]);
    /// There is no agent.
    fn disconnected(&self);
}
