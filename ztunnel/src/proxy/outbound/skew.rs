//! What this node has yet to hear of a destination.
//!
//! A pod that joins or leaves the mesh is redirected before or after this node hears of it. Where what is known cannot be true any more, the
//! connection waits for the news instead of failing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectError, OpenError};
use ambit_identity::SpiffeId;
use ambit_mesh::{Protocol, Workload};
use ambit_policy::Connection;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::reach::Failure;
use crate::proxy::Proxy;
use crate::state::{MeshState, Route};

/// Since when pods have been about to join, by UID. One that cannot be captured is not waited for by every connection.
#[derive(Default)]
pub(crate) struct Joining(Mutex<HashMap<Arc<str>, Instant>>);

impl Joining {
    /// What is left of the time that connections wait for this pod.
    fn left(&self, state: &MeshState, uid: &Arc<str>, time: Duration) -> Duration {
        let mut pods = self.0.lock();
        if pods.len() == pods.capacity() {
            pods.retain(|uid, _| {
                let known = state.workload_of(uid);
                known.is_some_and(|workload| workload.protocol != Protocol::Hbone)
            });
        }
        let since = *pods.entry(Arc::clone(uid)).or_insert_with(Instant::now);
        time.saturating_sub(since.elapsed())
    }

    fn is_over(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

/// Whether there is another route to be asked for: this one leads in plaintext to a pod that takes identities only. It is about to be
/// captured, or was just now, and would refuse the connection.
pub(super) async fn has_joined(
    proxy: &Proxy,
    client: SocketAddr,
    identity: &SpiffeId,
    route: &Route,
) -> bool {
    let (None, Some(workload)) = (route.hbone, &route.workload) else {
        return false;
    };
    let allowed = |principal| {
        let connection = Connection {
            principal,
            source: client.ip(),
            destination: route.target,
        };
        proxy.state.decide(workload, &connection).is_allowed()
    };
    if allowed(None) || !allowed(Some(identity.principal())) {
        return false;
    }
    let time = proxy.limits.skew_timeout;
    let left = proxy.joining.left(&proxy.state, &workload.uid, time);
    let joined = !left.is_zero() && changes(&proxy.state, workload, left).await;
    if joined {
        proxy.joining.is_over(&workload.uid);
    }
    joined
}

/// Whether there is another route to be asked for: nothing listens for HBONE at this one's end. The pod has left the mesh, or its address
/// is another's.
pub(super) async fn has_left(proxy: &Proxy, route: Option<&Route>, failure: &Failure) -> bool {
    let Some(workload) = route.and_then(|route| route.workload.as_ref()) else {
        return false;
    };
    let Failure::Tunnel(OpenError::Connect(ConnectError::Dial { error, .. })) = failure else {
        return false;
    };
    error.kind() == std::io::ErrorKind::ConnectionRefused
        && changes(&proxy.state, workload, proxy.limits.skew_timeout).await
}

/// Whether it is heard in time that the workload is gone or is reached in another way.
async fn changes(state: &MeshState, before: &Workload, time: Duration) -> bool {
    let mut changes = state.workloads_changed();
    let changed = async {
        loop {
            changes.borrow_and_update();
            let now = state.workload_of(&before.uid);
            if now.is_none_or(|now| now.protocol != before.protocol) {
                return true;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    };
    timeout(time, changed).await.unwrap_or(false)
}
