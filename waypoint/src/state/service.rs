//! Services, as the data path needs them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_mesh::{Balancing, Frontend, check_requires, external_addresses, service_key};
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::route::{RouteSpecs, Routing};
use super::{AppProtocol, Invalid, Retry, RuleSet};

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
    /// The authorization rules.
    pub(crate) rules: RuleSet,
    /// Timeout of a request, all attempts together, until the head of the response.
    pub(crate) timeout: Option<Chosen<Duration>>,
    pub(crate) retry: Option<Chosen<Retry>>,
    pub(crate) routing: Routing,
    /// Addresses outside of the cluster that lead here, by port.
    external: Vec<(IpAddr, u16)>,
    balancing: Balancing,
    pub(super) names: PolicyNames,
}

/// The part of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    /// The policy, `<namespace>/<name>`.
    pub(crate) policy: Arc<str>,
    pub(crate) value: T,
}

/// The policies that a service names.
#[derive(Debug, Clone, Default)]
pub(super) struct PolicyNames {
    authorization: Vec<Arc<str>>,
    /// Policies of other Services in front of the same pods.
    others: Vec<Vec<Arc<str>>>,
    timeout: Option<Arc<str>>,
    retry: Option<Arc<str>>,
}

impl PolicyNames {
    /// Policies with rules, set by set.
    pub(super) fn rules(&self) -> impl Iterator<Item = &[Arc<str>]> {
        std::iter::once(&self.authorization)
            .chain(&self.others)
            .map(Vec::as_slice)
    }
}

impl ServiceConfig {
    /// The configured protocol of a port; `None` if the service has no such port.
    pub(crate) fn protocol(&self, port: u16) -> Option<AppProtocol> {
        protocol(&self.ports, port)
    }

    pub(super) fn resolve(
        from: wire::Service,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
        routes: &RouteSpecs,
    ) -> Result<Self, Invalid> {
        if from.hostname.is_empty() {
            return Err(Invalid::Empty("hostname"));
        }
        check_requires(&from.requires)?;
        let some = |name: String| (!name.is_empty()).then(|| Arc::from(name));
        let names = PolicyNames {
            authorization: from.authorization.into_iter().map(Arc::from).collect(),
            others: policy_sets(from.others),
            timeout: some(from.timeout),
            retry: some(from.retry),
        };
        let mut config = Self {
            key: service_key(&from.namespace, &from.hostname),
            addresses: from
                .addresses
                .iter()
                .map(|bytes| ambit_mesh::ip(bytes))
                .collect::<Result<_, _>>()?,
            external: external_addresses(&from.external_addresses)?,
            ports: ports(from.ports)?,
            routing: Routing::new(from.routes),
            namespace: from.namespace,
            name: from.name,
            hostname: from.hostname,
            balancing: Balancing::from(from.load_balancing.as_ref())
                .with_affinity(from.session_affinity_seconds),
            rules: RuleSet::default(),
            timeout: None,
            retry: None,
            names,
        };
        config.resolve_policies(policy);
        config.resolve_routes(routes);
        Ok(config)
    }

    /// With the current version of its policies.
    pub(super) fn resolve_again(&self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        let mut config = self.clone();
        config.resolve_policies(policy);
        config
    }

    /// With the current version of its routes.
    pub(super) fn route_again(&self, routes: &RouteSpecs) -> Self {
        let mut config = self.clone();
        config.resolve_routes(routes);
        config
    }

    fn resolve_routes(&mut self, routes: &RouteSpecs) {
        self.routing = self.routing.resolve(&self.ports, routes);
    }

    fn resolve_policies(&mut self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) {
        fn chosen<T>(name: &Option<Arc<str>>, value: impl FnOnce(&str) -> Option<T>) -> Option<Chosen<T>> {
            let policy = name.as_ref()?;
            Some(Chosen {
                value: value(policy)?,
                policy: Arc::clone(policy),
            })
        }
        self.rules = RuleSet::of_all(self.names.rules(), &policy);
        self.timeout = chosen(&self.names.timeout, |name| policy(name)?.timeout);
        self.retry = chosen(&self.names.retry, |name| policy(name)?.retry.clone());
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        let names = &self.names;
        names
            .rules()
            .flatten()
            .chain(&names.timeout)
            .chain(&names.retry)
            .any(|name| policies.contains(name))
    }
}

pub(super) fn policy_sets(from: Vec<wire::RuleSet>) -> Vec<Vec<Arc<str>>> {
    let sets = from.into_iter();
    sets.map(|set| set.policies.into_iter().map(Arc::from).collect())
        .collect()
}

pub(super) fn protocol(ports: &[(u16, AppProtocol)], port: u16) -> Option<AppProtocol> {
    ports.iter().find(|(p, _)| *p == port).map(|(_, p)| *p)
}

pub(super) fn ports(from: Vec<wire::ServicePort>) -> Result<Vec<(u16, AppProtocol)>, Invalid> {
    let ports = from.into_iter().map(|port| {
        let number = u16::try_from(port.port).map_err(|_| Invalid::Port(port.port))?;
        // A protocol of a later version is detected from the bytes.
        Ok((number, port.protocol()))
    });
    ports.collect()
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
