//! The configuration: the services of this waypoint, their endpoints, and the rules.
//!
//! The data path looks a [`ServiceEntry`] up by its virtual address once for each connection. For each request it reads the service's
//! configuration, which is an atomic load, and chooses an endpoint under a read lock of that service alone.

mod dump;
mod policies;
mod route;
mod rules;
mod service;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_mesh::{Applied, Authorizations, Balancing, Client, Mesh, Query, Via, check_requires};
#[cfg(test)]
use ambit_policy::Policy;
use ambit_policy::{Connection, Decision};
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;
use ambit_wire::waypoint_route::RouteError;
use ambit_wire::workload as wire_workload;
use ambit_wire::xds::{Batch, Rejection};
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::watch;

use route::{Route, Routes};

pub(crate) use ambit_mesh::{Endpoint, Invalid, Workload};
pub(crate) use ambit_wire::waypoint_policy::Retry;
pub(crate) use ambit_wire::workload::AppProtocol;
pub(crate) use dump::StateDump;
pub(crate) use policies::{Chosen, RequestPolicies};
pub(crate) use route::{Backend, Matched, PortRoutes};
pub(crate) use rules::RuleSet;
pub(crate) use service::ServiceConfig;
pub(crate) use settings::Settings;

/// A service while it, or an endpoint of it, is in the configuration.
pub(crate) type ServiceEntry = ambit_mesh::ServiceEntry<ServiceConfig>;

/// All of the configuration. The cost of a change depends on its size only.
#[derive(Default)]
pub(crate) struct State {
    mesh: Mesh<ServiceConfig>,
    /// Written by one task only. Policies and everything derived from them change while it is locked.
    policies: RwLock<PolicyTable>,
    /// Written by the same task, while `policies` is locked.
    routes: RwLock<Routes>,
    backends: RwLock<HashMap<Arc<str>, Arc<Backend>>>,
    settings: ArcSwap<Settings>,
    /// Policies for connections, which the waypoint applies to the real client at the endpoint.
    authorizations: Authorizations,
    /// Counts changes that may alter a decision.
    decisions_changed: watch::Sender<u64>,
    /// Counts changes after which something is no longer served.
    dismissed: watch::Sender<u64>,
    /// Counts changes after which something new may be served.
    served: watch::Sender<u64>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The identity of this waypoint, and settings for all of its services.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The service that a connection to this address and port is for.
    pub(crate) fn service_at(&self, target: SocketAddr) -> Option<(Arc<ServiceEntry>, Via)> {
        self.mesh.service_at(target)
    }

    /// The service with this key (`<namespace>/<hostname>`), or one with endpoints that is not served.
    pub(crate) fn service(&self, key: &str) -> Option<Arc<ServiceEntry>> {
        self.mesh.service(key)
    }

    /// The pod with this address, as the endpoint of connections to its `port`, if these pass this waypoint
    /// (`istio.io/waypoint-for: workload`). Others are refused, since they would evade their services' rules.
    pub(crate) fn workload_at(&self, address: IpAddr, port: u16) -> Option<Endpoint> {
        let target = SocketAddr::new(address.to_canonical(), port);
        let endpoint = self.mesh.endpoint_at(target)?;
        endpoint.workload.waypoint.is_some().then_some(endpoint)
    }

    /// Services, and the workloads behind them.
    pub(crate) fn mesh(&self) -> &Mesh<ServiceConfig> {
        &self.mesh
    }

    /// A workload, as it is now.
    pub(crate) fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.mesh.workload(uid)
    }

    /// Notified when decisions may have changed.
    pub(crate) fn decisions_changed(&self) -> watch::Receiver<u64> {
        self.decisions_changed.subscribe()
    }

    /// Notified when a service, or a pod by its own address, is no longer served.
    pub(crate) fn dismissed(&self) -> watch::Receiver<u64> {
        self.dismissed.subscribe()
    }

    /// Notified when something new may be served.
    pub(crate) fn served(&self) -> watch::Receiver<u64> {
        self.served.subscribe()
    }

    fn dismiss(&self) {
        self.dismissed.send_modify(|n| *n += 1);
    }

    fn change_decisions(&self) {
        self.decisions_changed.send_modify(|n| *n += 1);
    }

    /// Whether the policies for connections allow this one to a workload.
    pub(crate) fn decide_l4(&self, workload: &Workload, connection: &Connection<'_>) -> Decision {
        self.authorizations.decide(workload, connection)
    }

    /// Applies the settings.
    pub(crate) fn apply_settings(&self, settings: wire::Settings) -> Result<(), Invalid> {
        if let Err(error) = check_requires(&settings.requires) {
            self.settings.store(Arc::new(self.settings.load().closed()));
            self.change_decisions();
            return Err(error);
        }
        let policies = self.policies.read();
        let settings = Settings::resolve(settings, |name| policies.get(name).cloned());
        self.settings.store(Arc::new(settings));
        drop(policies);
        self.change_decisions();
        Ok(())
    }

    /// Sets services, then removes others (`<namespace>/<hostname>`); returns the resources that were not understood,
    /// by name.
    pub(crate) fn apply_services(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire::Service)>,
    ) -> Vec<(String, Invalid)> {
        let (policies, routes) = (self.policies.read(), self.routes.read());
        let (mut services, mut invalid, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        for (name, service) in set {
            match ServiceConfig::resolve(service, |name| policies.get(name).cloned(), &routes) {
                Ok(service) => services.push(Arc::new(service)),
                Err(error) => {
                    // The earlier version must not stay in force.
                    if error.is_of_a_later_version() {
                        closed.push(name.clone());
                    }
                    invalid.push((name, error));
                }
            }
        }
        self.mesh.apply_services(services, removed);
        self.mesh.apply_services(Vec::new(), &closed);
        drop((policies, routes));
        self.change_decisions();
        self.served.send_modify(|n| *n += 1);
        if !removed.is_empty() || !closed.is_empty() {
            self.dismiss();
        }
        invalid
    }

    /// Sets workloads, then removes others (UIDs). Returns the UIDs of those that are removed or have moved (whose
    /// pooled connections must not be used again), and the resources that were not understood, by name.
    pub(crate) fn apply_workloads(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire_workload::Workload)>,
    ) -> (Vec<Arc<str>>, Vec<(String, Invalid)>) {
        let (mut workloads, mut invalid, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        for (name, workload) in set {
            match Workload::try_from(workload) {
                Ok(workload) => workloads.push(workload),
                Err(error) => {
                    if error.is_of_a_later_version() {
                        closed.push(name.clone());
                    }
                    invalid.push((name, error));
                }
            }
        }
        closed.extend_from_slice(removed);
        let Applied {
            moved,
            authorization,
            unbound,
        } = self.mesh.apply_workloads(workloads, &closed);
        if authorization {
            self.change_decisions();
        }
        self.served.send_modify(|n| *n += 1);
        // Clients do not connect to endpoints, unless these are bound themselves.
        if unbound {
            self.dismiss();
        }
        (moved, invalid)
    }

    /// Removes policies (`<namespace>/<name>`), then sets others. Services that name them follow at once.
    pub(crate) fn apply_policies(&self, removed: &[String], set: Vec<WaypointPolicy>) {
        let mut policies = self.policies.write();
        let mut changed: Vec<Arc<str>> = Vec::new();
        for name in removed {
            changed.extend(policies.remove_entry(name.as_str()).map(|(name, _)| name));
        }
        for policy in set {
            changed.push(Arc::clone(&policy.name));
            policies.insert(Arc::clone(&policy.name), Arc::new(policy));
        }
        for (config, entry) in self.mesh.services() {
            if config.names_any(&changed) {
                let resolved = config.resolve_again(|name| policies.get(name).cloned());
                entry.set_config(Some(Arc::new(resolved)));
            }
        }
        for backend in self.backends.write().values_mut() {
            if backend.names_any(&changed) {
                *backend = Arc::new(backend.resolve_again(|name| policies.get(name).cloned()));
            }
        }
        let settings = self.settings.load();
        if settings.names_any(&changed) {
            let resolved = settings.resolve_again(|name| policies.get(name).cloned());
            self.settings.store(Arc::new(resolved));
        }
        drop(policies);
        self.change_decisions();
    }

    /// Removes backends (`<namespace>/<hostname>`), then sets others; returns the resources that were not understood, by
    /// name. These are closed.
    pub(crate) fn apply_backends(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire::Backend)>,
    ) -> Vec<(String, Invalid)> {
        let policies = self.policies.read();
        let mut invalid = Vec::new();
        let mut backends = self.backends.write();
        for name in removed {
            backends.remove(name.as_str());
        }
        for (name, backend) in set {
            match Backend::resolve(backend, |name| policies.get(name).cloned()) {
                Ok(backend) => {
                    backends.insert(Arc::clone(&backend.key), Arc::new(backend));
                }
                Err(error) => {
                    backends.remove(name.as_str());
                    invalid.push((name, error));
                }
            }
        }
        drop((backends, policies));
        self.change_decisions();
        invalid
    }

    /// Removes routes (`<kind>/<namespace>/<name>`), then sets others; returns the resources that were not understood,
    /// by name. Services that name one of these are closed on its ports.
    pub(crate) fn apply_routes(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, wire::Route)>,
    ) -> Vec<(String, RouteError)> {
        let policies = self.policies.read();
        let mut invalid = Vec::new();
        let mut routes = self.routes.write();
        let mut changed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(name.as_str())).collect();
        for name in removed {
            routes.remove(name.as_str());
        }
        for (name, route) in set {
            let name: Arc<str> = name.into();
            changed.push(Arc::clone(&name));
            match Route::try_from(route) {
                Ok(route) => {
                    routes.insert(name, Arc::new(route));
                }
                Err(error) => {
                    routes.remove(&name);
                    invalid.push((name.to_string(), error));
                }
            }
        }
        for (config, entry) in self.mesh.services() {
            if config.routing.names_any(&changed) {
                entry.set_config(Some(Arc::new(
                    config.route_again(&routes, |name| policies.get(name).cloned()),
                )));
            }
        }
        drop((routes, policies));
        self.change_decisions();
        invalid
    }

    /// A backend of a route, and its endpoints.
    pub(crate) fn backend(&self, key: &str) -> Option<(Arc<Backend>, Option<Arc<ServiceEntry>>)> {
        let backend = self.backends.read().get(key).cloned()?;
        let endpoints = self.mesh.service(key);
        Some((backend, endpoints))
    }

    /// Whether a WaypointPolicy of that name is in force.
    pub(crate) fn has_policy(&self, name: &str) -> bool {
        self.policies.read().contains_key(name)
    }

    /// Applies a batch of authorizations.
    pub(crate) fn apply_authorization_batch(&self, batch: Batch) -> Vec<Rejection> {
        let rejections = self.authorizations.apply_batch(batch);
        self.change_decisions();
        rejections
    }

    /// Removes authorizations (`<namespace>/<name>`), then sets others.
    #[cfg(test)]
    pub(crate) fn apply_authorizations(&self, removed: &[String], set: Vec<Policy>) {
        self.authorizations.apply(&set, removed);
        self.change_decisions();
    }

    /// Numbers of services, routes, backends, workloads, policies and authorizations.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 6] {
        let (workloads, services) = self.mesh.counts();
        [
            ("services", services),
            ("routes", self.routes.read().len()),
            ("backends", self.backends.read().len()),
            ("workloads", workloads),
            ("policies", self.policies.read().len()),
            ("authorizations", self.authorizations.snapshot().iter().count()),
        ]
    }
}

/// An endpoint of a service. Those in `tried` (UIDs) are chosen only if there is no other. `None`: no endpoint is
/// healthy, or none has the port.
pub(crate) fn choose(
    entry: &ServiceEntry,
    port: u16,
    client: Client<'_>,
    tried: &[Arc<str>],
) -> Option<Endpoint> {
    let choose = |tried| {
        entry.choose(&Query {
            port,
            v4: client.address.is_none_or(|address| address.is_ipv4()),
            tried,
            client,
        })
    };
    choose(tried).or_else(|| choose(&[]))
}

/// The same of a backend of a route, balanced as it says.
pub(crate) fn choose_by(
    entry: &ServiceEntry,
    balancing: &Balancing,
    port: u16,
    client: Client<'_>,
    tried: &[Arc<str>],
) -> Option<Endpoint> {
    let choose = |tried| {
        let query = Query {
            port,
            v4: client.address.is_none_or(|address| address.is_ipv4()),
            tried,
            client,
        };
        entry.choose_by(balancing, &query)
    };
    choose(tried).or_else(|| choose(&[]))
}

/// Policies by name (`<namespace>/<name>`).
type PolicyTable = BTreeMap<Arc<str>, Arc<WaypointPolicy>>;

#[cfg(test)]
mod tests;
