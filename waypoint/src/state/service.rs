//! Services, as the data path needs them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_mesh::{Balancing, Frontend, check_requires, external_addresses, service_key};
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::policies::{PolicyNames, RequestPolicies};
use super::route::{Routes, Routing};
use super::{AppProtocol, Invalid};

/// The configuration of a service, with its policies resolved.
#[derive(Debug, Clone)]
pub(crate) struct ServiceConfig {
    /// `<namespace>/<hostname>`, as workloads name it.
    pub(crate) key: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<(u16, AppProtocol)>,
    pub(crate) routing: Routing,
    /// Addresses outside of the cluster that lead here, by port.
    external: Vec<(IpAddr, u16)>,
    balancing: Balancing,
    pub(super) policies: RequestPolicies,
    pub(super) names: PolicyNames,
    /// Of ports with policies of their own.
    of_ports: Vec<PortPolicies>,
}

#[derive(Debug, Clone)]
struct PortPolicies {
    port: u16,
    names: PolicyNames,
    policies: RequestPolicies,
}

impl ServiceConfig {
    /// The configured protocol of a port; `None` if the service has no such port.
    pub(crate) fn protocol(&self, port: u16) -> Option<AppProtocol> {
        protocol(&self.ports, port)
    }

    /// What policies say of requests to a port.
    pub(crate) fn policies(&self, port: u16) -> &RequestPolicies {
        let own = self.of_ports.iter().find(|own| own.port == port);
        own.map_or(&self.policies, |own| &own.policies)
    }

    pub(super) fn resolve(
        from: wire::Service,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
        routes: &Routes,
    ) -> Result<Self, Invalid> {
        if from.hostname.is_empty() {
            return Err(Invalid::Empty("hostname"));
        }
        check_requires(&from.requires)?;
        let authorization = wire::RuleSet {
            policies: from.authorization,
        };
        let sets = std::iter::once(authorization).chain(from.others).collect();
        let (ports, scoped) = ports(from.ports)?;
        let of_ports = scoped.into_iter().map(|(port, names)| PortPolicies {
            port,
            names,
            policies: RequestPolicies::default(),
        });
        let mut config = Self {
            key: service_key(&from.namespace, &from.hostname),
            addresses: from
                .addresses
                .iter()
                .map(|bytes| ambit_mesh::ip(bytes))
                .collect::<Result<_, _>>()?,
            external: external_addresses(&from.external_addresses)?,
            ports,
            routing: Routing::new(from.routes),
            namespace: from.namespace,
            name: from.name,
            hostname: from.hostname,
            balancing: Balancing::from(from.load_balancing.as_ref())
                .with_affinity(from.session_affinity_seconds),
            policies: RequestPolicies::default(),
            names: PolicyNames::new(sets, from.timeout, from.retry),
            of_ports: of_ports.collect(),
        };
        config.resolve_policies(&policy);
        config.resolve_routes(routes, policy);
        Ok(config)
    }

    /// With the current version of its policies.
    pub(super) fn resolve_again(&self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        let mut config = self.clone();
        config.resolve_policies(&policy);
        config.routing = config.routing.resolve_again(|port| config.policies(port), policy);
        config
    }

    /// With the current version of its routes.
    pub(super) fn route_again(
        &self,
        routes: &Routes,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        let mut config = self.clone();
        config.resolve_routes(routes, policy);
        config
    }

    fn resolve_routes(&mut self, routes: &Routes, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) {
        let ports: Vec<u16> = self.ports.iter().map(|(port, _)| *port).collect();
        let routing = self
            .routing
            .resolve(&ports, routes, |port| self.policies(port), policy);
        self.routing = routing;
    }

    fn resolve_policies(&mut self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) {
        self.policies = RequestPolicies::default().narrowed(&self.names, &policy);
        for own in &mut self.of_ports {
            own.policies = self.policies.narrowed(&own.names, &policy);
        }
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        self.names.names_any(policies)
            || self.of_ports.iter().any(|own| own.names.names_any(policies))
            || self.routing.names_any_policy(policies)
    }
}

pub(super) fn protocol(ports: &[(u16, AppProtocol)], port: u16) -> Option<AppProtocol> {
    ports.iter().find(|(p, _)| *p == port).map(|(_, p)| *p)
}

/// Ports with their protocols, and the policies of those that have some of their own.
pub(super) type Ports = (Vec<(u16, AppProtocol)>, Vec<(u16, PolicyNames)>);

pub(super) fn ports(from: Vec<wire::ServicePort>) -> Result<Ports, Invalid> {
    let (mut ports, mut scoped) = (Vec::with_capacity(from.len()), Vec::new());
    for port in from {
        let number = u16::try_from(port.port).map_err(|_| Invalid::Port(port.port))?;
        // A protocol of a later version is detected from the bytes.
        ports.push((number, port.protocol()));
        scoped.extend(port.policies.map(|policies| (number, policies.into())));
    }
    Ok((ports, scoped))
}

impl Frontend for ServiceConfig {
    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn external(&self) -> &[(IpAddr, u16)] {
        &self.external
    }

    fn balancing(&self) -> &Balancing {
        &self.balancing
    }

    /// The control plane sends it for each endpoint.
    fn target_port(&self, _: u16) -> Option<u16> {
        None
    }
}

impl fmt::Display for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
