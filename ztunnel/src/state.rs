//! The configuration: workloads and services by address, and the policies that apply to them.

mod dump;
mod service;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_mesh::{
    Authorizations, Client, InUse, Invalid, Membership, Mesh, Query, ServiceEntry, Via, Waypoint, Workload,
    ip, sketch,
};
#[cfg(test)]
use ambit_policy::Policy;
use ambit_policy::{Connection, Decision};
use ambit_wire::workload::{Address, address};
use ambit_wire::xds::{Batch, Rejection};
use tokio::sync::watch;

pub(crate) use dump::{PolicyDump, ServiceDump, WorkloadDump};
pub(crate) use service::Service;

/// The metric label for a connection to a destination whose waypoint has no reachable replica.
pub(crate) const WAYPOINT_UNREACHABLE: &str = "waypoint_unreachable";

/// The route of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Address and port of the application.
    pub(crate) target: SocketAddr,
    /// The destination's HBONE port, if the connection uses HBONE; otherwise it goes to the target in plaintext.
    pub(crate) hbone: Option<SocketAddr>,
    /// The workload at the destination, if known.
    pub(crate) workload: Option<Arc<Workload>>,
    /// The service that the client addressed, if any.
    pub(crate) service: Option<Arc<Service>>,
    /// Counts the connection towards the endpoint's load.
    pub(crate) in_use: Option<InUse>,
    /// The connection leads to this waypoint, and the target is sent to it: the workload is the waypoint's.
    pub(crate) waypoint: Option<Waypoint>,
    /// Other endpoints may be available.
    pub(crate) others: bool,
}

/// Why a connection has no route.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("{0} has no healthy endpoint")]
    NoHealthyEndpoint(Arc<Service>),
    #[error("this version does not understand the configuration of {0}")]
    NotUnderstood(IpAddr),
    #[error("{0} has no port {1}")]
    NoPort(Arc<Service>, u16),
    #[error("{WAYPOINT_UNREACHABLE}: {bound} is reached through {waypoint} only, which has no ready replica")]
    Waypoint {
        bound: String,
        service: Option<Arc<Service>>,
        waypoint: Waypoint,
    },
}

impl RouteError {
    /// The label of the metric.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoHealthyEndpoint(_) => "no_healthy_endpoint",
            Self::NoPort(..) => "no_service_port",
            Self::NotUnderstood(_) => "not_understood",
            Self::Waypoint { .. } => WAYPOINT_UNREACHABLE,
        }
    }

    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::NoHealthyEndpoint(service) | Self::NoPort(service, _) => Some(service),
            Self::Waypoint { service, .. } => service.as_ref(),
            Self::NotUnderstood(_) => None,
        }
    }
}

/// The state of the mesh, as this ztunnel has received it.
#[derive(Default)]
pub(crate) struct MeshState {
    /// The node of this ztunnel, and so of each of its clients.
    node: String,
    mesh: Mesh<Service>,
    authorizations: Authorizations,
    /// Counts changes that may alter a decision.
    authorization_changed: watch::Sender<u64>,
}

impl MeshState {
    /// An empty state for this node.
    pub(crate) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// Sets addresses, then removes others by name. Returns the UIDs of workloads that are removed or have moved (whose
    /// pooled connections must not be used again), and the resources that were not understood, by name.
    pub(crate) fn apply_addresses(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, Address)>,
    ) -> (Vec<Arc<str>>, Vec<(String, Invalid)>) {
        let (mut workloads, mut services, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
        for (name, address) in set {
            let bytes = address_bytes(&address);
            let converted = match address.r#type {
                Some(address::Type::Workload(one)) => Workload::try_from(one).map(|w| workloads.push(w)),
                Some(address::Type::Service(one)) => {
                    Service::try_from(one).map(|s| services.push(Arc::new(s)))
                }
                None => Err(Invalid::Kind),
            };
            if let Err(error) = converted {
                invalid.push((name, error, bytes));
            }
        }
        // A service appears together with its endpoints.
        let set = self.mesh.apply_workloads(workloads, &[]);
        self.mesh.apply_services(services, &[]);
        let gone = self.mesh.apply_workloads(Vec::new(), removed);
        let mut moved = [set.moved, gone.moved].concat();
        for (name, error, bytes) in &invalid {
            if error.is_of_a_later_version() || !self.is_known(name) {
                let addresses = bytes.iter().filter_map(|bytes| ip(bytes).ok());
                moved.extend(self.mesh.refuse(name, addresses.collect()).moved);
            }
        }
        if set.authorization || gone.authorization {
            self.change_authorization();
        }
        let invalid = invalid.into_iter().map(|(name, error, _)| (name, error));
        (moved, invalid.collect())
    }

    /// Refuses connections to resources that could not be decoded, except for the address of an earlier version, which
    /// stays in force.
    pub(crate) fn refuse_undecodable(&self, name: &str, bytes: &[u8]) {
        if !self.is_known(name) {
            self.mesh.refuse(name, sketch::addresses(bytes));
        }
    }

    fn is_known(&self, name: &str) -> bool {
        let service = self.mesh.service(name);
        self.mesh.workload(name).is_some() || service.is_some_and(|entry| entry.config().is_some())
    }

    fn change_authorization(&self) {
        self.authorization_changed.send_modify(|n| *n += 1);
    }

    /// Applies a batch of authorizations.
    pub(crate) fn apply_authorizations(&self, batch: Batch) -> Vec<Rejection> {
        let rejections = self.authorizations.apply_batch(batch);
        self.change_authorization();
        rejections
    }

    /// Inserts policies and removes those named in `removed`.
    #[cfg(test)]
    pub(crate) fn apply_policies(&self, set: Vec<Policy>, removed: &[String]) {
        self.authorizations.apply(&set, removed);
        self.change_authorization();
    }

    /// The workload at an address.
    pub(crate) fn workload(&self, address: IpAddr) -> Option<Arc<Workload>> {
        self.mesh.workload_at(address)
    }

    /// Notified when workloads or services have changed.
    pub(crate) fn addresses_changed(&self) -> watch::Receiver<u64> {
        self.mesh.changed()
    }

    /// Workloads and services.
    pub(crate) fn mesh(&self) -> &Mesh<Service> {
        &self.mesh
    }

    /// Notified when decisions may have changed.
    pub(crate) fn authorization_changed(&self) -> watch::Receiver<u64> {
        self.authorization_changed.subscribe()
    }

    /// The route of a connection from `client` to `destination`; endpoints in `tried` (UIDs) are excluded. Unknown
    /// destinations are reached in plaintext.
    pub(crate) fn route(
        &self,
        client: Option<IpAddr>,
        destination: SocketAddr,
        tried: &[Arc<str>],
    ) -> Result<Route, RouteError> {
        if self.mesh.is_refused(destination.ip()) {
            return Err(RouteError::NotUnderstood(destination.ip()));
        }
        // Every pod of the node is in its zone.
        let source = client.and_then(|client| self.mesh.workload_at(client));
        let mut query = Query {
            port: destination.port(),
            v4: destination.is_ipv4(),
            tried,
            client: Client {
                address: client,
                node: &self.node,
                zone: source.as_ref().map_or("", |source| &source.zone),
                via: Via::default(),
            },
        };
        if let Some((entry, service, via)) = self.service_at(destination) {
            query.client.via = via;
            if service.passthrough && service.waypoint.is_none() {
                return Ok(Route::passthrough(destination, Some(service)));
            }
            if !service.has_port(destination.port()) {
                return Err(RouteError::NoPort(service, destination.port()));
            }
            if let Some(waypoint) = &service.waypoint {
                let bound = Bound {
                    name: service.as_ref(),
                    service: Some(&service),
                    waypoint,
                };
                return self.through_waypoint(&bound, destination, &query);
            }
            let Some(choice) = entry.choose(&query) else {
                return Err(RouteError::NoHealthyEndpoint(service));
            };
            return Ok(Route {
                hbone: choice.workload.hbone_address(choice.target),
                target: choice.target,
                workload: Some(choice.workload),
                service: Some(service),
                in_use: Some(choice.in_use),
                waypoint: None,
                others: choice.others,
            });
        }
        let Some(workload) = self.mesh.workload_at(destination.ip()) else {
            return Ok(Route::passthrough(destination, None));
        };
        if let Some(waypoint) = &workload.waypoint {
            let bound = Bound {
                name: workload.as_ref(),
                service: None,
                waypoint,
            };
            return self.through_waypoint(&bound, destination, &query);
        }
        Ok(Route {
            hbone: workload.hbone_address(destination),
            workload: Some(workload),
            ..Route::passthrough(destination, None)
        })
    }

    fn service_at(&self, destination: SocketAddr) -> Option<(Arc<ServiceEntry<Service>>, Arc<Service>, Via)> {
        let (entry, via) = self.mesh.service_at(destination)?;
        let service = entry.config()?;
        Some((entry, service, via))
    }

    /// To a replica of the waypoint, with `destination` as the target; never past the waypoint.
    fn through_waypoint(
        &self,
        bound: &Bound<'_>,
        destination: SocketAddr,
        query: &Query<'_>,
    ) -> Result<Route, RouteError> {
        let service = bound.service.cloned();
        match self.mesh.replica(bound.waypoint, query) {
            Some(replica) => Ok(Route {
                target: destination,
                hbone: Some(replica.target),
                workload: Some(replica.workload),
                service,
                in_use: Some(replica.in_use),
                waypoint: Some(bound.waypoint.clone()),
                others: replica.others,
            }),
            None => Err(RouteError::Waypoint {
                bound: bound.name.to_string(),
                service,
                waypoint: bound.waypoint.clone(),
            }),
        }
    }

    /// The service that leads to this port of a workload; the first by name if there are several.
    pub(crate) fn service_of(&self, workload: &Workload, target_port: u16) -> Option<Arc<Service>> {
        let leads = |of: &Membership| of.ports.iter().any(|port| port.target_port == target_port);
        let services = workload.services.iter().filter(|(_, of)| leads(of));
        let key = services.map(|(key, _)| key).min()?;
        self.mesh.service(key)?.config()
    }

    /// Whether a service is known to lead to this workload through a waypoint.
    pub(crate) fn is_bound(&self, workload: &Workload, namespace: &str, name: &str) -> bool {
        let mut services = self.bound_services(workload);
        services.any(|service| service.namespace == namespace && service.name == name)
    }

    /// Whether some service is known to.
    pub(crate) fn is_any_bound(&self, workload: &Workload) -> bool {
        self.bound_services(workload).next().is_some()
    }

    fn bound_services(&self, workload: &Workload) -> impl Iterator<Item = Arc<Service>> {
        let services = workload.services.keys();
        let services = services.filter_map(|key| self.mesh.service(key)?.config());
        services.filter(|service| service.waypoint.is_some())
    }

    /// Whether a workload's policies allow a connection to it.
    pub(crate) fn decide(&self, workload: &Workload, connection: &Connection<'_>) -> Decision {
        self.authorizations.decide(workload, connection)
    }

    /// Numbers of workloads, services and policies.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let (workloads, services) = self.mesh.counts();
        (workloads, services, self.authorizations.snapshot().iter().count())
    }
}

impl Route {
    fn passthrough(to: SocketAddr, service: Option<Arc<Service>>) -> Self {
        Self {
            target: to,
            hbone: None,
            workload: None,
            service,
            in_use: None,
            waypoint: None,
            others: false,
        }
    }
}

/// The addresses of a workload or service, as received.
fn address_bytes(address: &Address) -> Vec<Vec<u8>> {
    match &address.r#type {
        Some(address::Type::Workload(one)) => one.addresses.clone(),
        Some(address::Type::Service(one)) => one.addresses.iter().map(|a| a.address.clone()).collect(),
        None => Vec::new(),
    }
}

/// The waypoint of a destination.
struct Bound<'a> {
    name: &'a dyn std::fmt::Display,
    service: Option<&'a Arc<Service>>,
    waypoint: &'a Waypoint,
}

#[cfg(test)]
mod tests;
