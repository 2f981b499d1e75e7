//! The jobs in the network namespace of a pod that redirect its connections.

use super::failure::Failure;
use crate::netlink::{self, Changes, InForce, PodTable};
use crate::netns::{self, Listeners, Netns, NetnsRunner};
use std::sync::Arc;

/// The jobs of a capture. [`super::lane`] orders them.
#[async_trait::async_trait]
pub(super) trait Redirection: Send + Sync + std::fmt::Debug {
    /// The state of the table.
    async fn look(&self, netns: &Netns) -> Result<PodTable, Failure>;
    /// Creates listeners and seeds.
    async fn make_listeners(&self, netns: &Netns) -> Result<Listeners, Failure>;
    /// Applies table, rule and route, in place of existing ones, and returns the new state. Open connections do not
    /// change.
    async fn apply(&self, netns: &Netns) -> Result<Arc<InForce>, Failure>;
    /// The parts that are missing, or differ from the state after [`Self::apply`]. If there are none, forgets
    /// connections from before the capture that have ended.
    async fn missing(&self, netns: &Netns, of: Arc<InForce>) -> Result<Vec<&'static str>, Failure>;
    /// Notifications of changes; none if they are not available.
    async fn watch(&self, netns: &Netns) -> Option<Changes>;
    /// Stops the redirection of new connections; earlier ones are still redirected.
    async fn drain(&self, netns: &Netns) -> Result<(), Failure>;
    /// The number of connections in accept queues.
    async fn waiting(&self, netns: &Netns) -> Result<u64, Failure>;
    /// The number of redirected connections with data that the application has not received yet.
    async fn undelivered(&self, netns: &Netns) -> Result<usize, Failure>;
    /// Removes table, rule and route.
    async fn remove(&self, netns: &Netns) -> Result<(), Failure>;
}

/// The implementation in the kernel, with threads in the namespaces of pods.
#[derive(Debug)]
pub(super) struct Kernel(pub(super) NetnsRunner);

#[async_trait::async_trait]
impl Redirection for Kernel {
    async fn look(&self, netns: &Netns) -> Result<PodTable, Failure> {
        self.0.run(netns, || Ok(netlink::pod_table()?)).await
    }

    async fn make_listeners(&self, netns: &Netns) -> Result<Listeners, Failure> {
        let job = || {
            // The ztunnel creates its sockets over the loopback. A container runtime may run its loopback plugin
            // concurrently.
            netlink::raise_loopback()?;
            Ok(netns::make_listeners()?)
        };
        self.0.run(netns, job).await
    }

    async fn apply(&self, netns: &Netns) -> Result<Arc<InForce>, Failure> {
        let job = || {
            netlink::install_redirection()?;
            Ok(Arc::new(InForce::installed()?))
        };
        self.0.run(netns, job).await
    }

    async fn missing(&self, netns: &Netns, of: Arc<InForce>) -> Result<Vec<&'static str>, Failure> {
        let job = move || {
            let missing = of.missing()?;
            if missing.is_empty()
                && let Err(e) = netlink::forget_ended_connections()
            {
                tracing::warn!(error = %e, "ended connections from before the capture are still in the \
                     bypass set; a connection that gets the port of one takes longer");
            }
            Ok(missing)
        };
        self.0.run(netns, job).await
    }

    async fn watch(&self, netns: &Netns) -> Option<Changes> {
        let sockets = self
            .0
            .run(netns, || Ok::<_, Failure>(netlink::watch_changes()?))
            .await;
        sockets
            .and_then(|sockets| Ok(Changes::new(sockets)?))
            .inspect_err(|e| {
                tracing::debug!(error = %e, netns_inode = netns.inode(), "the kernel does not notify \
                     changes of the pod's rules; they are checked from time to time");
            })
            .ok()
    }

    async fn drain(&self, netns: &Netns) -> Result<(), Failure> {
        self.0.run(netns, || Ok(netlink::drain_pod_table()?)).await
    }

    async fn waiting(&self, netns: &Netns) -> Result<u64, Failure> {
        self.0.run(netns, || Ok(netlink::waiting_connections()?)).await
    }

    async fn undelivered(&self, netns: &Netns) -> Result<usize, Failure> {
        self.0
            .run(netns, || Ok(netlink::undelivered_connections()?))
            .await
    }

    async fn remove(&self, netns: &Netns) -> Result<(), Failure> {
        let job = || {
            netlink::remove_pod_table()?;
            Ok(netlink::remove_redirection_route()?)
        };
        self.0.run(netns, job).await
    }
}
