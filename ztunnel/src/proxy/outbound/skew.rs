//! Late updates about a destination ([`Skew`](ambit_mesh::Skew)).

use std::net::SocketAddr;

use ambit_identity::SpiffeId;
use ambit_policy::Connection;
use tokio::time::Instant;

use super::reach::Failure;
use crate::proxy::Proxy;
use crate::state::Route;

/// Whether to look up the route again: this one leads in plaintext to a pod that accepts identities only, and the pod
/// has joined.
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
    !allowed(None)
        && allowed(Some(identity.principal()))
        && proxy.skew.has_joined(proxy.state.mesh(), workload).await
}

/// Whether to look up the route again: the HBONE port of its destination is closed, since the pod has left.
pub(super) async fn has_left(proxy: &Proxy, route: Option<&Route>, failure: &Failure) -> bool {
    let Some(workload) = route.and_then(|route| route.workload.as_ref()) else {
        return false;
    };
    matches!(failure, Failure::Tunnel(error) if error.is_nobody_there())
        && proxy
            .skew
            .has_left(proxy.state.mesh(), workload, Instant::now())
            .await
}
