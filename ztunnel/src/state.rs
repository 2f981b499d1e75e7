//! What the control plane has said: workloads and services by address, and the policies that apply to them.

mod balance;
mod dump;
mod load;
mod service;
mod tables;
mod waypoint;
mod workload;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_policy::{Connection, Decision, Policies, Policy, Target};
use ambit_wire::names::PORT_HBONE;
use ambit_wire::workload::Address;
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::watch;

pub(crate) use dump::{PolicyDump, ServiceDump, WorkloadDump};
pub(crate) use load::InUse;
pub(crate) use service::Service;
use tables::Tables;
pub(crate) use waypoint::Waypoint;
pub(crate) use workload::{InvalidAddress, Protocol, Workload};

/// The metrics' word for a connection to what is bound to a waypoint, when no replica of that was reached.
pub(crate) const WAYPOINT_UNREACHABLE: &str = "waypoint_unreachable";

/// Where a connection is to go.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Address and port of the application.
    pub(crate) target: SocketAddr,
    /// The destination's HBONE port, where the connection goes through it; else it goes to the target in plaintext.
    pub(crate) hbone: Option<SocketAddr>,
    /// Who is there, if known.
    pub(crate) workload: Option<Arc<Workload>>,
    /// The service it was called by, if any.
    pub(crate) service: Option<Arc<Service>>,
    /// Counts the connection towards the endpoint's load.
    pub(crate) in_use: Option<InUse>,
    /// It leads to this waypoint, which is told the target: the workload is the waypoint's.
    pub(crate) waypoint: Option<Waypoint>,
    /// There may be other endpoints that would do.
    pub(crate) others: bool,
}

/// Why a connection can go nowhere.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("{0} has no healthy endpoint")]
    NoHealthyEndpoint(Arc<Service>),
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
    /// The metrics' word for it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoHealthyEndpoint(_) => "no_healthy_endpoint",
            Self::NoPort(..) => "no_service_port",
            Self::Waypoint { .. } => WAYPOINT_UNREACHABLE,
        }
    }

    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::NoHealthyEndpoint(service) | Self::NoPort(service, _) => Some(service),
            Self::Waypoint { service, .. } => service.as_ref(),
        }
    }
}

/// The state of the mesh as this ztunnel knows it. Lookups take a read lock for as long as a hash lookup lasts.
#[derive(Default)]
pub(crate) struct MeshState {
    tables: RwLock<Tables>,
    policies: ArcSwap<Policies>,
    /// Counts changes of workloads.
    workloads_changed: watch::Sender<u64>,
    /// Counts changes that may change a decision.
    authorization_changed: watch::Sender<u64>,
}

impl MeshState {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Removes addresses by name, then sets others. Returns the UIDs of workloads that are gone or live elsewhere now (whose
    /// pooled connections must not be used again), and what was not understood, by name.
    pub(crate) fn apply_addresses(
        &self,
        removed: &[String],
        set: impl IntoIterator<Item = (String, Address)>,
    ) -> (Vec<Arc<str>>, Vec<(String, InvalidAddress)>) {
        let mut moved = Vec::new();
        let mut invalid = Vec::new();
        let mut authorization = false;
        {
            let mut tables = self.tables.write();
            // Removals first: an address may have passed from one workload to another.
            moved.extend(removed.iter().filter_map(|name| tables.remove(name).moved));
            for (name, address) in set {
                match tables.set(address) {
                    Ok(effect) => {
                        moved.extend(effect.moved);
                        authorization |= effect.authorization;
                    }
                    Err(error) => invalid.push((name, error)),
                }
            }
        }
        self.workloads_changed.send_modify(|n| *n += 1);
        if authorization {
            self.authorization_changed.send_modify(|n| *n += 1);
        }
        (moved, invalid)
    }

    /// Puts policies in place and takes out those named in `removed`.
    pub(crate) fn apply_policies(&self, set: Vec<Policy>, removed: &[String]) {
        self.policies.rcu(|policies| {
            let mut policies = Policies::clone(policies);
            for name in removed {
                policies.remove(name);
            }
            for policy in &set {
                policies.insert(policy.clone());
            }
            policies
        });
        self.authorization_changed.send_modify(|n| *n += 1);
    }

    /// Whether a policy of that name (`namespace/name`) is in force.
    pub(crate) fn has_policy(&self, name: &str) -> bool {
        self.policies.load().get(name).is_some()
    }

    /// The workload at an address.
    pub(crate) fn workload(&self, address: IpAddr) -> Option<Arc<Workload>> {
        self.tables.read().workload(address).cloned()
    }

    /// Notified when workloads have changed.
    pub(crate) fn workloads_changed(&self) -> watch::Receiver<u64> {
        self.workloads_changed.subscribe()
    }

    /// Notified when decisions may have changed.
    pub(crate) fn authorization_changed(&self) -> watch::Receiver<u64> {
        self.authorization_changed.subscribe()
    }

    /// Where a connection to `destination` goes; endpoints in `tried` (UIDs) are left out. Unknown destinations go there in
    /// plaintext.
    pub(crate) fn route(&self, destination: SocketAddr, tried: &[Arc<str>]) -> Result<Route, RouteError> {
        let tables = self.tables.read();
        if let Some(entry) = tables.service_at(destination.ip()) {
            let Some(service) = entry.service() else {
                return Ok(Route::passthrough(destination, None));
            };
            if service.passthrough && service.waypoint.is_none() {
                return Ok(Route::passthrough(destination, Some(Arc::clone(service))));
            }
            if !service
                .ports
                .iter()
                .any(|port| port.service_port == destination.port())
            {
                return Err(RouteError::NoPort(Arc::clone(service), destination.port()));
            }
            if let Some(waypoint) = &service.waypoint {
                let bound = Bound {
                    name: service.as_ref(),
                    service: Some(service),
                    waypoint,
                };
                return through_waypoint(&tables, &bound, destination, tried);
            }
            let choice = entry.choose(destination.port(), destination.is_ipv4(), tried);
            let choice = choice.ok_or_else(|| RouteError::NoHealthyEndpoint(Arc::clone(service)))?;
            return Ok(Route {
                hbone: hbone(&choice.workload, choice.target),
                target: choice.target,
                workload: Some(choice.workload),
                service: Some(Arc::clone(service)),
                in_use: Some(choice.in_use),
                waypoint: None,
                others: choice.others,
            });
        }
        match tables.workload(destination.ip()) {
            Some(workload) => match &workload.waypoint {
                Some(waypoint) => {
                    let bound = Bound {
                        name: workload.as_ref(),
                        service: None,
                        waypoint,
                    };
                    through_waypoint(&tables, &bound, destination, tried)
                }
                None => Ok(Route {
                    hbone: hbone(workload, destination),
                    target: destination,
                    workload: Some(Arc::clone(workload)),
                    service: None,
                    in_use: None,
                    waypoint: None,
                    others: false,
                }),
            },
            None => Ok(Route::passthrough(destination, None)),
        }
    }

    /// The service that leads to this port of a workload; the first by name where there are several.
    pub(crate) fn service_of(&self, workload: &Workload, target_port: u16) -> Option<Arc<Service>> {
        let tables = self.tables.read();
        let leads = |ports: &[service::ServicePort]| ports.iter().any(|port| port.target_port == target_port);
        let services = workload
            .services
            .iter()
            .filter(|(_, ports)| leads(ports))
            .map(|(key, _)| key)
            .min();
        tables.service(services?).cloned()
    }

    /// Whether a workload's policies allow a connection to it.
    pub(crate) fn decide(&self, workload: &Workload, connection: &Connection<'_>) -> Decision {
        let target = Target {
            namespace: &workload.namespace,
            policies: &workload.authorization_policies,
        };
        self.policies.load().evaluate(connection, target)
    }

    /// Numbers of workloads, services and policies.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let tables = self.tables.read();
        (
            tables.workload_count(),
            tables.service_count(),
            self.policies.load().iter().count(),
        )
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

/// What is bound to a waypoint.
struct Bound<'a> {
    name: &'a dyn std::fmt::Display,
    service: Option<&'a Arc<Service>>,
    waypoint: &'a Waypoint,
}

/// To a replica of the waypoint, which is told `destination`; never past it.
fn through_waypoint(
    tables: &Tables,
    bound: &Bound<'_>,
    destination: SocketAddr,
    tried: &[Arc<str>],
) -> Result<Route, RouteError> {
    let service = bound.service.cloned();
    match tables.replica(bound.waypoint, destination.is_ipv4(), tried) {
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

fn hbone(workload: &Workload, target: SocketAddr) -> Option<SocketAddr> {
    (workload.protocol == Protocol::Hbone).then(|| SocketAddr::new(target.ip(), PORT_HBONE))
}

#[cfg(test)]
mod tests;
