//! What this waypoint has yet to hear of an endpoint ([`Skew`](ambit_mesh::Skew)).

use std::sync::Arc;

use ambit_mesh::Protocol;
use tokio::time::Instant;

use super::connection::Target;
use crate::proxy::Proxy;
use crate::state::Endpoint;

/// Whether to choose again: this endpoint is known as one that is reached in plaintext, takes identities only, and has joined since. Where
/// there is another one that has not been `tried`, nobody waits.
pub(super) async fn has_joined(
    proxy: &Proxy,
    target: &Target,
    endpoint: &Endpoint,
    tried: &mut Vec<Arc<str>>,
) -> bool {
    let (mesh, workload) = (proxy.state.mesh(), &endpoint.workload);
    if workload.protocol == Protocol::Hbone
        || !workload.identities_only
        || proxy.skew.joins_within(mesh, &workload.uid).is_zero()
    {
        return false;
    }
    if target.has_another(proxy, endpoint, tried) {
        tried.push(Arc::clone(&workload.uid));
        return true;
    }
    proxy.skew.has_joined(mesh, workload).await
}

/// Whether to choose again: nobody listens for HBONE at this endpoint, as it has left. All that one request, or one connection that is no
/// HTTP, waits for such news is counted from the first time on, in `since`.
pub(super) async fn has_left(
    proxy: &Proxy,
    endpoint: &Endpoint,
    tried: &mut Vec<Arc<str>>,
    since: &mut Option<Instant>,
) -> bool {
    let since = *since.get_or_insert_with(Instant::now);
    let left = proxy
        .skew
        .has_left(proxy.state.mesh(), &endpoint.workload, since)
        .await;
    if left {
        tried.retain(|uid| *uid != endpoint.workload.uid);
    }
    left
}
