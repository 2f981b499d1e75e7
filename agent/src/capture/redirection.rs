//! What is done in a pod's network namespace to redirect its connections.

use super::failure::Failure;
use crate::netlink::{self, Changes, InForce, PodTable};
use crate::netns::{self, Listeners, Netns, NetnsRunner};
use std::sync::Arc;

/// The jobs of a capture. They are not ordered here: [`super::lane`] does that.
#[async_trait::async_trait]
pub(super) trait Redirection: Send + Sync + std::fmt::Debug {
    /// What of the table stands.
    async fn look(&self, netns: &Netns) -> Result<PodTable, Failure>;
    /// Listeners and seeds, made anew.
    async fn make_listeners(&self, netns: &Netns) -> Result<Listeners, Failure>;
    /// Puts table, rule and route in force, in place of those that are there; returns what now stands. Connections
    /// that are open stay what they are.
    async fn apply(&self, netns: &Netns) -> Result<Arc<InForce>, Failure>;
    /// What is missing, or differs, of what [`Self::apply`] left. Where nothing is, connections from before the capture that have ended by
    /// now are forgotten.
    async fn missing(&self, netns: &Netns, of: Arc<InForce>) -> Result<Vec<&'static str>, Failure>;
    /// Notifications of changes; none where they cannot be had.
    async fn watch(&self, netns: &Netns) -> Option<Changes>;
    /// From now on no new connection is redirected; earlier ones are.
    async fn drain(&self, netns: &Netns) -> Result<(), Failure>;
    /// Connections that wait to be accepted.
    async fn waiting(&self, netns: &Netns) -> Result<u64, Failure>;
    /// Redirected connections on which the proxy's end has sent what the application has not got yet.
    async fn undelivered(&self, netns: &Netns) -> Result<usize, Failure>;
    /// Removes table, rule and route.
    async fn remove(&self, netns: &Netns) -> Result<(), Failure>;
}

/// The kernel, through threads in pods' namespaces.
#[derive(Debug)]
pub(super) struct Kernel(pub(super) NetnsRunner);

#[async_trait::async_trait]
impl Redirection for Kernel {
    async fn look(&self, netns: &Netns) -> Result<PodTable, Failure> {
        self.0.run(netns, || Ok(netlink::pod_table()?)).await
    }

    async fn make_listeners(&self, netns: &Netns) -> Result<Listeners, Failure> {
        let job = || {
            // The ztunnel makes its sockets over it. A container runtime may run its loopback plugin beside ours.
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
