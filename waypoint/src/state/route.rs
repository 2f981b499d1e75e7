//! Routes and their backends, as the data path needs them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ambit_l7::{ConnectionTable, Plan, RequestHead, RouteKind, RouteSpec, RouteTable, ValueTooLong};
use ambit_mesh::{Balancing, check_requires, service_key};
use ambit_wire::waypoint_policy::WaypointPolicy;
use ambit_wire::waypoint_route::RouteError;
use ambit_wire::{waypoint as wire, waypoint_route};

use super::policies::{PolicyNames, RequestPolicies};
use super::{AppProtocol, Invalid, RuleSet, service};

/// Routes by name.
pub(super) type Routes = BTreeMap<Arc<str>, Arc<Route>>;

/// A route, and the policies of each of its rules.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) spec: RouteSpec,
    policies: Vec<PolicyNames>,
}

impl TryFrom<wire::Route> for Route {
    type Error = RouteError;

    fn try_from(mut from: wire::Route) -> Result<Self, RouteError> {
        let rules = from.rules.iter_mut();
        let policies = rules.map(|rule| rule.policies.take().unwrap_or_default().into());
        Ok(Self {
            policies: policies.collect(),
            spec: waypoint_route::spec(from)?,
        })
    }
}

/// A service that routes send requests to.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    /// `<namespace>/<hostname>`, as workloads name it.
    pub(crate) key: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) ports: Vec<(u16, AppProtocol)>,
    pub(crate) balancing: Balancing,
    /// Its own rules.
    pub(super) rules: RuleSet,
    names: PolicyNames,
    /// Of ports with policies of their own.
    of_ports: Vec<(u16, PolicyNames, RuleSet)>,
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
        let (ports, scoped) = service::ports(from.ports)?;
        let scoped = scoped.into_iter();
        let backend = Self {
            key: service_key(&from.namespace, &from.hostname),
            ports,
            rules: RuleSet::default(),
            balancing: Balancing::from(from.load_balancing.as_ref())
                .with_affinity(from.session_affinity_seconds),
            namespace: from.namespace,
            name: from.name,
            hostname: from.hostname,
            names: PolicyNames::new(from.authorization, String::new(), String::new()),
            of_ports: scoped
                .map(|(port, names)| (port, names, RuleSet::default()))
                .collect(),
        };
        Ok(backend.resolve_again(policy))
    }

    /// With the current version of its policies.
    pub(super) fn resolve_again(&self, policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        let mut backend = self.clone();
        backend.rules = RuleSet::default().and(&self.names.sets, &policy);
        for (_, names, rules) in &mut backend.of_ports {
            *rules = backend.rules.and(&names.sets, &policy);
        }
        backend
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        let mut of_ports = self.of_ports.iter();
        self.names.names_any(policies) || of_ports.any(|(_, names, _)| names.names_any(policies))
    }

    /// The rules for requests to a port.
    pub(crate) fn rules(&self, port: u16) -> &RuleSet {
        let own = self.of_ports.iter().find(|(own, ..)| *own == port);
        own.map_or(&self.rules, |(_, _, rules)| rules)
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
#[derive(Debug)]
pub(crate) struct PortRoutes {
    compiled: Arc<Compiled>,
    /// What policies say of the requests of each rule of HTTPRoutes.
    http: Box<[RequestPolicies]>,
    /// The same of GRPCRoutes.
    grpc: Box<[RequestPolicies]>,
    /// The rules for connections that are not HTTP, which might be for any rule of any route: those of all of them.
    pub(crate) connections: RuleSet,
    /// Of a consumer's routes: the service's own, whose rules still hold; `None` where these have none of their own.
    pub(crate) passed_over: Option<Arc<Self>>,
}

/// Routes, whatever the port that they apply to.
#[derive(Debug, Default)]
struct Compiled {
    http: RouteTable,
    grpc: RouteTable,
    http_routes: Vec<Arc<Route>>,
    grpc_routes: Vec<Arc<Route>>,
    /// Those of TCPRoutes and TLSRoutes.
    connections: Option<ConnectionTable>,
    /// Whether the routes are of connections, not of requests.
    of_connections: bool,
    /// A route that applies and has not been received, or is not understood: closed until it is.
    missing: Option<Arc<str>>,
}

/// A table of routes with what policies say of the requests of each rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) routes: &'a RouteTable,
    policies: &'a [RequestPolicies],
}

/// What applies to a request that a rule of a route matches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matched<'a> {
    pub(crate) plan: &'a Arc<Plan>,
    pub(crate) policies: &'a RequestPolicies,
}

impl Routing {
    pub(super) fn new(attached: Vec<wire::AttachedRoute>) -> Self {
        Self {
            attached: attached.into(),
            tables: Vec::new(),
        }
    }

    /// With the current version of the routes; `at` is what policies say of all requests to a port.
    pub(super) fn resolve<'a>(
        &self,
        ports: &[u16],
        routes: &Routes,
        at: impl Fn(u16) -> &'a RequestPolicies,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        let mut tables = Vec::new();
        // Most routes apply to every port.
        let mut compiled: BTreeMap<Vec<&str>, Arc<Compiled>> = BTreeMap::new();
        for port in ports {
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
                    .or_insert_with_key(|names| Arc::new(Compiled::of(names, routes)));
                tables.push((*port, consumer.into(), Arc::clone(table)));
            }
        }
        Self {
            attached: Arc::clone(&self.attached),
            tables: settle(tables, at, policy),
        }
    }

    /// With the current version of the policies.
    pub(super) fn resolve_again<'a>(
        &self,
        at: impl Fn(u16) -> &'a RequestPolicies,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        let tables = self.tables.iter();
        let tables =
            tables.map(|(port, consumer, table)| (*port, consumer.clone(), Arc::clone(&table.compiled)));
        Self {
            attached: Arc::clone(&self.attached),
            tables: settle(tables.collect(), at, policy),
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

    /// Whether its routes name one of these policies.
    pub(super) fn names_any_policy(&self, policies: &[Arc<str>]) -> bool {
        let tables = self.tables.iter().map(|(_, _, table)| &table.compiled);
        let mut routes = tables.flat_map(|c| c.http_routes.iter().chain(&c.grpc_routes));
        routes.any(|route| route.policies.iter().any(|names| names.names_any(policies)))
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

/// The tables of ports and consumers, of a port those of its own namespace first.
fn settle<'a>(
    tables: Vec<(u16, Box<str>, Arc<Compiled>)>,
    at: impl Fn(u16) -> &'a RequestPolicies,
    policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
) -> Vec<(u16, Box<str>, Arc<PortRoutes>)> {
    let mut settled: Vec<(u16, Box<str>, Arc<PortRoutes>)> = Vec::with_capacity(tables.len());
    for (port, consumer, compiled) in tables {
        let mut before = settled.iter().rev();
        let own = before.find(|(other, consumer, _)| *other == port && consumer.is_empty());
        let own = own.filter(|_| !consumer.is_empty()).map(|(.., own)| own);
        let routes = PortRoutes::new(compiled, at(port), own, &policy);
        settled.push((port, consumer, Arc::new(routes)));
    }
    settled
}

impl Compiled {
    fn of(names: &[&str], routes: &Routes) -> Self {
        let mut compiled = Self::default();
        let mut connections = Vec::new();
        for name in names {
            let Some(route) = routes.get(*name) else {
                compiled.missing = compiled.missing.or_else(|| Some(Arc::from(*name)));
                continue;
            };
            match route.spec.name.kind {
                RouteKind::HttpRoute => compiled.http_routes.push(Arc::clone(route)),
                RouteKind::GrpcRoute => compiled.grpc_routes.push(Arc::clone(route)),
                RouteKind::TcpRoute | RouteKind::TlsRoute => connections.push(&route.spec),
            }
        }
        compiled.http = RouteTable::compile(compiled.http_routes.iter().map(|route| &route.spec));
        compiled.grpc = RouteTable::compile(compiled.grpc_routes.iter().map(|route| &route.spec));
        compiled.connections = ConnectionTable::compile(connections);
        // The operator settles conflicts; in the moment of a change, the more specific kinds apply.
        compiled.of_connections = names.iter().all(|name| is_of_connections(name));
        compiled
    }

    /// The policies of all rules.
    fn policies(&self) -> impl Iterator<Item = &PolicyNames> {
        let routes = self.http_routes.iter().chain(&self.grpc_routes);
        routes.flat_map(|route| &route.policies)
    }
}

impl PortRoutes {
    fn new(
        compiled: Arc<Compiled>,
        at: &RequestPolicies,
        own: Option<&Arc<Self>>,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        let settled = |table: &RouteTable, routes: &[Arc<Route>]| {
            let names = routes.iter().flat_map(|route| &route.policies);
            let plans = table.plans().iter().zip(names);
            plans
                .map(|(plan, names)| at.narrowed(names, &policy).of_rule(plan))
                .collect()
        };
        let all = own.into_iter().map(|own| &own.compiled).chain([&compiled]);
        let mut sets: Vec<&Vec<Arc<str>>> = all.flat_map(|c| c.policies()).flat_map(|p| &p.sets).collect();
        sets.sort_unstable();
        sets.dedup();
        let mut connections = at.rules.and(&sets, &policy);
        for of in own.into_iter().map(|own| &own.compiled).chain([&compiled]) {
            // Those of connections have no policies, and say themselves that they are missing.
            if let Some(missing) = of.missing.as_ref().filter(|_| !of.of_connections) {
                connections = connections.lacking(missing);
            }
        }
        Self {
            http: settled(&compiled.http, &compiled.http_routes),
            grpc: settled(&compiled.grpc, &compiled.grpc_routes),
            connections,
            passed_over: own.filter(|own| own.narrows()).cloned(),
            compiled,
        }
    }

    /// Whether the routes are of connections, not of requests.
    pub(crate) fn are_of_connections(&self) -> bool {
        self.compiled.of_connections
    }

    /// The routes of connections.
    pub(crate) fn connection_table(&self) -> Option<&ConnectionTable> {
        self.compiled.connections.as_ref()
    }

    /// Whether policies for its routes have rules, or may have: a route is missing.
    pub(crate) fn narrows(&self) -> bool {
        let mut policies = self.compiled.policies();
        self.compiled.missing.is_some() || policies.any(|names| !names.sets.is_empty())
    }

    /// A route that applies and has not been received, or is not understood: closed until it is.
    pub(crate) fn missing(&self) -> Option<&Arc<str>> {
        self.compiled.missing.as_ref()
    }

    /// The rules for a request: those of GRPCRoutes for calls of gRPC, those of HTTPRoutes for others; of the other
    /// kind, if there is only this.
    pub(crate) fn table(&self, grpc: bool) -> Table<'_> {
        let http = Table {
            routes: &self.compiled.http,
            policies: &self.http,
        };
        let of_grpc = Table {
            routes: &self.compiled.grpc,
            policies: &self.grpc,
        };
        let (first, other) = if grpc { (of_grpc, http) } else { (http, of_grpc) };
        if first.policies.is_empty() { other } else { first }
    }
}

impl<'a> Table<'a> {
    /// What applies to a request; `None`: no rule matches it.
    pub(crate) fn find(self, head: &RequestHead<'_>) -> Result<Option<Matched<'a>>, ValueTooLong> {
        let plan = self.routes.lookup(head)?;
        Ok(plan.and_then(|plan| {
            Some(Matched {
                plan,
                policies: self.policies.get(plan.place)?,
            })
        }))
    }
}
