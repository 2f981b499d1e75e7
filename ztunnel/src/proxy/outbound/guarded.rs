//! Connections that a guard has denied: it keeps the ways around a waypoint closed.
//!
//! A node hears of a waypoint, or that there is none any more, a moment before or after the destination's node does. A
//! caller that does not know of the waypoint cannot be blamed, so its connection is tried again: as soon as its own node
//! hears of the waypoint, and from time to time, since the guard may go.

use std::net::SocketAddr;

use ambit_mesh::GuardPauses;
use ambit_wire::names;
use tokio::time::timeout_at;

use super::reach::Failure;
use crate::limits::BudgetPermit;
use crate::pod::Pod;
use crate::proxy::Proxy;
use crate::state::Route;

/// One connection, from its first denial on.
#[derive(Default)]
pub(super) struct Guarded(Option<(GuardPauses, BudgetPermit)>);

impl Guarded {
    /// Whether to look up the route again, after a pause that ends when the route is another.
    pub(super) async fn may_open(
        &mut self,
        proxy: &Proxy,
        pod: &Pod,
        ends: (SocketAddr, SocketAddr),
        route: Option<&Route>,
        failure: &Failure,
    ) -> bool {
        // What a waypoint responds is not about ways around one.
        let (Some(route), Some(guard)) = (route.filter(|r| r.waypoint.is_none()), failure.guard()) else {
            return false;
        };
        if self.0.is_none() {
            let place = pod.guarded.take(1);
            self.0 = place.map(|place| (GuardPauses::new(proxy.limits.guard_timeout), place));
        }
        let Some(end) = self.0.as_mut().and_then(|(pauses, _)| pauses.next_end()) else {
            return false;
        };
        if !leads_elsewhere(proxy, ends) && is_known(proxy, route, guard) {
            return false;
        }
        let mut changes = proxy.state.addresses_changed();
        let changed = async {
            loop {
                changes.borrow_and_update();
                if leads_elsewhere(proxy, ends) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Either way there is something to find out.
        let _ = timeout_at(end, changed).await;
        true
    }
}

/// Whether the client's node knows of the waypoint that the guard is about, so that this way is around it.
fn is_known(proxy: &Proxy, route: &Route, guard: &str) -> bool {
    let (Some(workload), Some((namespace, guarded))) = (&route.workload, names::guarded(guard)) else {
        return true;
    };
    // As it is now: the route may be from before an update.
    let Some(workload) = proxy.state.mesh().workload(&workload.uid) else {
        return false;
    };
    match guarded {
        names::Guarded::Service(name) => proxy.state.is_bound(&workload, namespace, name),
        // One behind rules of a Service has none at its own address, and is closed for good.
        names::Guarded::Pods => workload.waypoint.is_some() || proxy.state.is_any_bound(&workload),
    }
}

/// Whether the route is through a waypoint by now.
fn leads_elsewhere(proxy: &Proxy, (client, destination): (SocketAddr, SocketAddr)) -> bool {
    match proxy.state.route(Some(client.ip()), destination, &[]) {
        Ok(route) => route.waypoint.is_some(),
        // It is said by the next attempt.
        Err(_) => true,
    }
}
