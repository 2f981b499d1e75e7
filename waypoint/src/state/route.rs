//! Routes and their backends, as the data path needs them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ambit_l7::{ConnectionTable, RouteKind, RouteSpec, RouteTable};
use ambit_mesh::{Balancing, check_requires, service_key};
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::{AppProtocol, Invalid, RuleSet, service};

/// Routes by name.
pub(super) type RouteSpecs = BTreeMap<Arc<str>, Arc<RouteSpec>>;

/// A service that routes send requests to.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    /// `<namespace>/<hostname>`, as workloads name it.
    pub(crate) key: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) ports: Vec<(u16, AppProtocol)>,
    /// Its own rules.
    pub(crate) rules: RuleSet,
    pub(crate) balancing: Balancing,
    sets: Vec<Vec<Arc<str>>>,
}

impl Backend {
    pub(super) fn resolve(
        from: wire::Backend,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Result<Self, Invalid> {
        if from.hostname.is_empty() {
            return Err(Invalid::Empty("hostname"));
        }
        check_requires(&from.requires)?;
        let sets = service::policy_sets(from.authorization);
        Ok(Self {
            key: service_key(&from.namespace, &from.hostname),
            ports: service::ports(from.ports)?,
            rules: RuleSet::of_all(sets.iter().map(Vec::as_slice), policy),
            balancing: Balancing::from(from.load_balancing.as_ref())
                .with_affinity(from.session_affinity_seconds),
            namespace: from.namespace,
            name: from.name,
            hostname: from.hostname,
            sets,
        })
    }

    /// With the current version of its policies.
    pub(super) fn resolve_again(&self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        Self {
            rules: RuleSet::of_all(self.sets.iter().map(Vec::as_slice), policy),
            ..self.clone()
        }
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        self.sets.iter().flatten().any(|name| policies.contains(name))
    }

    /// The protocol of a port; `None` if there is no such port.
    pub(crate) fn protocol(&self, port: u16) -> Option<AppProtocol> {
        service::protocol(&self.ports, port)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The routes of a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routing {
    attached: Arc<[wire::AttachedRoute]>,
    /// For each port and namespace of consumers; the empty one is for all others.
    tables: Vec<(u16, Box<str>, Arc<PortRoutes>)>,
}

/// The routes that apply to a port for some callers.
#[derive(Debug, Default)]
pub(crate) struct PortRoutes {
    /// The rules of HTTPRoutes.
    http: RouteTable,
    /// The rules of GRPCRoutes.
    grpc: RouteTable,
    /// Those of TCPRoutes and TLSRoutes.
    connections: Option<ConnectionTable>,
    /// Whether the routes are of connections, not of requests.
    of_connections: bool,
    /// A route that applies and has not been received, or is not understood: closed until it is.
    pub(crate) missing: Option<Arc<str>>,
}

impl Routing {
    pub(super) fn new(attached: Vec<wire::AttachedRoute>) -> Self {
        Self {
            attached: attached.into(),
            tables: Vec::new(),
        }
    }

    /// With the current version of the routes.
    pub(super) fn resolve(&self, ports: &[(u16, AppProtocol)], routes: &RouteSpecs) -> Self {
        let mut tables = Vec::new();
        // Most routes apply to every port.
        let mut compiled: BTreeMap<Vec<&str>, Arc<PortRoutes>> = BTreeMap::new();
        for (port, _) in ports {
            let applying =
                |a: &&wire::AttachedRoute| a.ports.is_empty() || a.ports.contains(&u32::from(*port));
            let applying: Vec<_> = self.attached.iter().filter(applying).collect();
            let mut consumers: Vec<&str> = applying.iter().map(|a| a.consumers.as_str()).collect();
            consumers.sort_unstable();
            consumers.dedup();
            for consumer in consumers {
                let names = applying.iter().filter(|a| a.consumers == consumer);
                let names: Vec<&str> = names.map(|a| a.route.as_str()).collect();
                let table = compiled
                    .entry(names)
                    .or_insert_with_key(|names| Arc::new(PortRoutes::of(names, routes)));
                tables.push((*port, consumer.into(), Arc::clone(table)));
            }
        }
        Self {
            attached: Arc::clone(&self.attached),
            tables,
        }
    }

    /// The routes, that with precedence first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.attached.iter().map(|attached| attached.route.as_str())
    }

    /// Whether it names one of these routes.
    pub(super) fn names_any(&self, routes: &[Arc<str>]) -> bool {
        self.attached
            .iter()
            .any(|a| routes.iter().any(|route| **route == a.route))
    }

    /// The routes that apply to callers in a namespace; `None` if there are none.
    pub(crate) fn of(&self, port: u16, namespace: &str) -> Option<&Arc<PortRoutes>> {
        let find = |consumer: &str| {
            let mut tables = self.tables.iter();
            tables.find(|(p, c, _)| *p == port && **c == *consumer)
        };
        // A consumer's own routes replace the others.
        let found = find(namespace).or_else(|| find(""));
        found.map(|(_, _, routes)| routes)
    }
}

/// Whether a route (`<kind>/<namespace>/<name>`) is of connections.
fn is_of_connections(name: &str) -> bool {
    let kind = name.split('/').next().and_then(|kind| kind.parse().ok());
    kind.is_some_and(RouteKind::is_of_connections)
}

impl PortRoutes {
    fn of(names: &[&str], routes: &RouteSpecs) -> Self {
        let (mut http, mut grpc, mut connections) = (Vec::new(), Vec::new(), Vec::new());
        let mut missing = None;
        for name in names {
            let Some(spec) = routes.get(*name) else {
                missing = missing.or_else(|| Some(Arc::from(*name)));
                continue;
            };
            match spec.name.kind {
                RouteKind::HttpRoute => http.push(&**spec),
                RouteKind::GrpcRoute => grpc.push(&**spec),
                RouteKind::TcpRoute | RouteKind::TlsRoute => connections.push(&**spec),
            }
        }
        Self {
            http: RouteTable::compile(http),
            grpc: RouteTable::compile(grpc),
            connections: ConnectionTable::compile(connections),
            // The operator settles conflicts; in the moment of a change, the more specific kinds apply.
            of_connections: names.iter().all(|name| is_of_connections(name)),
            missing,
        }
    }

    /// Whether the routes are of connections, not of requests.
    pub(crate) fn are_of_connections(&self) -> bool {
        self.of_connections
    }

    /// The routes of connections.
    pub(crate) fn connections(&self) -> Option<&ConnectionTable> {
        self.connections.as_ref()
    }

    /// The rules for a request: those of GRPCRoutes for calls of gRPC, those of HTTPRoutes for others; of the other
    /// kind, if there is only this.
    pub(crate) fn table(&self, grpc: bool) -> &RouteTable {
        let (first, other) = if grpc {
            (&self.grpc, &self.http)
        } else {
            (&self.http, &self.grpc)
        };
        if first.plans().is_empty() { other } else { first }
    }
}
