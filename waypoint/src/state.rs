//! What the operator has said: what this waypoint serves, the endpoints behind it, and the rules.
//!
//! The data path looks a [`ServiceEntry`] up by its virtual address once for each connection, and reads the service's
//! [`configuration`](ServiceEntry::config) and [chooses](ServiceEntry::choose) an endpoint for each request: the one is an atomic load,
//! the other a read lock of that service alone.

mod balance;
mod dump;
mod rules;
mod service;
mod settings;
mod tables;
mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_policy::{Connection, Decision, Policies, Policy, Target};
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;
use ambit_wire::workload as wire_workload;
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::watch;

pub(crate) use ambit_wire::waypoint_policy::Retry;
pub(crate) use ambit_wire::workload::AppProtocol;
pub(crate) use balance::Endpoint;
pub(crate) use dump::StateDump;
pub(crate) use rules::RuleSet;
pub(crate) use service::{Chosen, ServiceConfig, ServiceEntry};
pub(crate) use settings::Settings;
use tables::Tables;
pub(crate) use workload::{Invalid, Workload};

/// All of it. Changes cost what they touch.
#[derive(Default)]
pub(crate) struct State {
    tables: RwLock<Tables>,
    settings: ArcSwap<Settings>,
    /// Those for connections, by which the real client is judged at the endpoint.
    authorizations: ArcSwap<Policies>,
    /// Counts changes that may change a decision.
    decisions_changed: watch::Sender<u64>,
    /// Counts changes after which something is no longer served.
    dismissed: watch::Sender<u64>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Who this waypoint is, and what holds for all that it serves.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The service that has this virtual address.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<Arc<ServiceEntry>> {
        self.tables.read().service_at(address.to_canonical())
    }

    /// The service of this key (`<namespace>/<hostname>`), or one that has endpoints and is not served.
    pub(crate) fn service(&self, key: &str) -> Option<Arc<ServiceEntry>> {
        self.tables.read().service(key)
    }

    /// The pod that has this address, as an endpoint for connections to `port` of it, where those come through this waypoint
    /// (`istio.io/waypoint-for: workload`).
    pub(crate) fn workload_at(&self, address: IpAddr, port: u16) -> Option<Endpoint> {
        self.tables.read().workload_at(address.to_canonical(), port)
    }

    /// A workload, as it is now.
    pub(crate) fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.tables.read().workload(uid).cloned()
    }

    /// Notified when decisions may have changed.
    pub(crate) fn decisions_changed(&self) -> watch::Receiver<u64> {
        self.decisions_changed.subscribe()
    }

    /// Notified when a service, or a pod by its own address, is no longer served.
    pub(crate) fn dismissed(&self) -> watch::Receiver<u64> {
        self.dismissed.subscribe()
    }

    fn dismiss(&self) {
        self.dismissed.send_modify(|n| *n += 1);
    }

    fn change_decisions(&self) {
        self.decisions_changed.send_modify(|n| *n += 1);
    }

    /// Whether the policies for connections allow this one to a workload.
    pub(crate) fn decide_l4(&self, workload: &Workload, connection: &Connection<'_>) -> Decision {
        let target = Target {
            namespace: &workload.namespace,
            policies: &workload.authorization_policies,
        };
        self.authorizations.load().evaluate(connection, target)
    }

    /// Puts the settings in place.
    pub(crate) fn apply_settings(&self, settings: wire::Settings) -> Result<(), Invalid> {
        let tables = self.tables.write();
        let settings = Settings::resolve(settings, |name| tables.policy(name))?;
        self.settings.store(Arc::new(settings));
        drop(tables);
        self.change_decisions();
        Ok(())
    }

    /// Removes services (`<namespace>/<hostname>`), then sets others; what was not understood, by name.
    pub(crate) fn apply_services(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire::Service)>,
    ) -> Vec<(String, Invalid)> {
        let mut tables = self.tables.write();
        for name in removed {
            tables.remove_service(name);
        }
        let invalid = set
            .into_iter()
            .filter_map(|(name, service)| Some((name, tables.set_service(service).err()?)))
            .collect();
        drop(tables);
        self.change_decisions();
        if !removed.is_empty() {
            self.dismiss();
        }
        invalid
    }

    /// Removes workloads (UIDs), then sets others. Returns the UIDs of those that are gone or live elsewhere now (whose pooled
    /// connections must not be used again), and what was not understood, by name.
    pub(crate) fn apply_workloads(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire_workload::Workload)>,
    ) -> (Vec<Arc<str>>, Vec<(String, Invalid)>) {
        let mut tables = self.tables.write();
        // Endpoints that come and go are not what clients connect to, but for those that are bound themselves.
        let was_bound = |tables: &Tables, uid: &str| tables.workload(uid).is_some_and(|old| old.bound);
        let mut dismissed = removed.iter().any(|uid| was_bound(&tables, uid));
        // Removals first: an address may have passed from one workload to another.
        let mut moved: Vec<_> = removed
            .iter()
            .filter_map(|uid| tables.remove_workload(uid))
            .collect();
        let mut invalid = Vec::new();
        let mut authorization = false;
        for (name, workload) in set {
            match Workload::try_from(workload) {
                Ok(workload) => {
                    authorization |= tables
                        .workload(&workload.uid)
                        .is_some_and(|old| old.authorization_policies != workload.authorization_policies);
                    let (was_bound, bound) = (was_bound(&tables, &workload.uid), workload.bound);
                    let has_moved = tables.set_workload(workload);
                    dismissed |= was_bound && (!bound || has_moved.is_some());
                    moved.extend(has_moved);
                }
                Err(error) => invalid.push((name, error)),
            }
        }
        drop(tables);
        // Endpoints that come and go decide nothing.
        if authorization {
            self.change_decisions();
        }
        if dismissed {
            self.dismiss();
        }
        (moved, invalid)
    }

    /// Removes policies (`<namespace>/<name>`), then sets others.
    pub(crate) fn apply_policies(&self, removed: &[String], set: Vec<WaypointPolicy>) {
        let mut tables = self.tables.write();
        let changed = tables.change_policies(removed, set);
        let settings = self.settings.load();
        if settings.names_any(&changed) {
            let resolved = settings.resolve_again(|name| tables.policy(name));
            self.settings.store(Arc::new(resolved));
        }
        drop(tables);
        self.change_decisions();
    }

    /// Whether a WaypointPolicy of that name is in force.
    pub(crate) fn has_policy(&self, name: &str) -> bool {
        self.tables.read().policy(name).is_some()
    }

    /// Removes authorizations (`<namespace>/<name>`), then sets others.
    pub(crate) fn apply_authorizations(&self, removed: &[String], set: Vec<Policy>) {
        self.authorizations.rcu(|policies| {
            let mut policies = Policies::clone(policies);
            for name in removed {
                policies.remove(name);
            }
            for policy in &set {
                policies.insert(policy.clone());
            }
            policies
        });
        self.change_decisions();
    }

    /// Whether an authorization of that name is in force.
    pub(crate) fn has_authorization(&self, name: &str) -> bool {
        self.authorizations.load().get(name).is_some()
    }

    /// Numbers of services, workloads, policies and authorizations.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 4] {
        let tables = self.tables.read();
        [
            ("services", tables.service_count()),
            ("workloads", tables.workloads().count()),
            ("policies", tables.policies().len()),
            ("authorizations", self.authorizations.load().iter().count()),
        ]
    }
}

/// Policies by name (`<namespace>/<name>`).
type PolicyTable = BTreeMap<Arc<str>, Arc<WaypointPolicy>>;

#[cfg(test)]
mod tests;
