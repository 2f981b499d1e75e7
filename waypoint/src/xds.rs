//! Applies the control plane's resources to the state.

use std::sync::Arc;

use ambit_mesh::subscription::{Synced, decode, reject};
use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE,
    TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD, WAYPOINT_SETTINGS,
};
use ambit_wire::waypoint_policy::WaypointPolicy;
use ambit_wire::xds::{Batch, Handler, Rejection, Subscription};
use ambit_wire::{waypoint, waypoint_policy, workload};
use tokio::sync::watch;

use crate::observe::Observer;
use crate::shards::Proxies;
use crate::state::{Invalid, State};

/// The order matters: resources that services name should be there before them.
pub(crate) const TYPES: [&str; 7] = [
    TYPE_AUTHORIZATION,
    TYPE_WAYPOINT_POLICY,
    TYPE_WAYPOINT_SETTINGS,
    TYPE_WORKLOAD,
    TYPE_WAYPOINT_BACKEND,
    TYPE_WAYPOINT_ROUTE,
    TYPE_WAYPOINT_SERVICE,
];

/// All resources for this waypoint.
pub(crate) fn subscriptions() -> impl Iterator<Item = Subscription> {
    TYPES.into_iter().map(Subscription::wildcard)
}

/// Applies batches, and reports when the first complete response of each type has arrived.
pub(crate) struct StateUpdater {
    pub(crate) state: Arc<State>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) synced: watch::Sender<Synced>,
}

impl Handler for StateUpdater {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        // No other type is subscribed.
        let Some(kind) = TYPES.into_iter().find(|kind| *kind == batch.type_url) else {
            return Vec::new();
        };
        let complete = batch.complete;
        let rejections = match kind {
            TYPE_WAYPOINT_SETTINGS => self.settings(batch),
            TYPE_WAYPOINT_SERVICE => self.services(batch),
            TYPE_WAYPOINT_ROUTE => self.routes(batch),
            TYPE_WAYPOINT_BACKEND => self.backends(batch),
            TYPE_WAYPOINT_POLICY => self.policies(batch),
            TYPE_WORKLOAD => self.workloads(batch),
            _ => self.state.apply_authorization_batch(batch),
        };
        // Without valid settings it is not clear what to enforce. In other types, a resource that is not understood is
        // closed.
        let received = match kind {
            TYPE_WAYPOINT_SETTINGS => self.state.settings().received,
            _ => complete,
        };
        if received {
            self.synced.send_if_modified(|synced| synced.received(kind));
        }
        rejections
    }
}

impl StateUpdater {
    /// Removed settings stay in force: without them it would not be clear what to enforce.
    fn settings(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<waypoint::Settings>(batch.added);
        for (name, settings) in decoded {
            let applied = if name == WAYPOINT_SETTINGS {
                self.state.apply_settings(settings)
            } else {
                Err(Invalid::Name(WAYPOINT_SETTINGS))
            };
            if let Err(error) = applied {
                rejections.push(reject(name, error));
            }
        }
        self.observer.set_access_log(self.state.settings().access_log);
        rejections
    }

    fn services(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<waypoint::Service>(batch.added);
        let invalid = self.state.apply_services(&batch.removed, decoded);
        rejections.extend(invalid.into_iter().map(|(name, error)| reject(name, error)));
        rejections
    }

    fn routes(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<waypoint::Route>(batch.added);
        let invalid = self.state.apply_routes(&batch.removed, decoded);
        rejections.extend(invalid.into_iter().map(|(name, error)| reject(name, error)));
        rejections
    }

    fn backends(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<waypoint::Backend>(batch.added);
        let invalid = self.state.apply_backends(&batch.removed, decoded);
        rejections.extend(invalid.into_iter().map(|(name, error)| reject(name, error)));
        rejections
    }

    fn workloads(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<workload::Workload>(batch.added);
        let (moved, invalid) = self.state.apply_workloads(&batch.removed, decoded);
        for workload in moved {
            self.proxies.evict_workload(&workload);
        }
        rejections.extend(invalid.into_iter().map(|(name, error)| reject(name, error)));
        rejections
    }

    fn policies(&self, batch: Batch) -> Vec<Rejection> {
        // The name of a resource that cannot be decoded cannot be trusted; services that name it are closed, because it
        // is missing.
        let (decoded, mut rejections) = decode::<waypoint::Policy>(batch.added);
        let mut policies = Vec::with_capacity(decoded.len());
        for (name, policy) in decoded {
            // The replacement of a resource that is not understood, if no earlier version may stay in force.
            let fallback = waypoint_policy::closed(&policy);
            match WaypointPolicy::try_from(policy) {
                Ok(policy) => policies.push(policy),
                Err(error) => {
                    if error.is_of_a_later_version() || !self.state.has_policy(&fallback.name) {
                        policies.push(fallback);
                    }
                    rejections.push(reject(name, error));
                }
            }
        }
        self.state.apply_policies(&batch.removed, policies);
        rejections
    }
}
