//! Routes with Services as parents: what waypoints are sent, and what the statuses say.

use crate::gateway::{GrantSpec, GrpcRoute, GrpcRouteKind, HttpRoute, HttpRouteKind};
use crate::index::{RouteId, RouteRecord, RouteSummary};

use super::*;

impl World {
    /// `shop`, with a Service `web-v2` of its own pod `b`, and a waypoint that has been ready.
    pub(super) fn canary() -> Self {
        let mut world = Self::shop();
        world.web_service("shop", "web-v2", "10.96.0.2", json!({}));
        world.pod(&marked(pod("b", "10.0.0.2")));
        world.endpoints("shop", "web-v2", &["b"]);
        world
    }

    pub(super) fn route(&mut self, namespace: &str, name: &str, spec: Value) {
        let route: HttpRoute = object(json!({
            "metadata": {"name": name, "namespace": namespace, "generation": 1}, "spec": spec,
        }));
        let id = RouteId::new::<HttpRouteKind>(&Key::new(namespace, name));
        self.index.set_route(&id, Some(RouteRecord::of(&route)));
        self.flush();
    }

    pub(super) fn delete_route(&mut self, name: &str) {
        let id = RouteId::new::<HttpRouteKind>(&Key::new("shop", name));
        self.index.set_route(&id, None);
        self.flush();
    }

    pub(super) fn routes_of(&self, waypoint: &str) -> BTreeMap<String, wire::Route> {
        let routes = self.sent(waypoint).routes.iter();
        routes
            .map(|(name, b)| (name.clone(), wire::Route::decode(b.as_slice()).unwrap()))
            .collect()
    }

    pub(super) fn backends_of(&self, waypoint: &str) -> BTreeMap<String, wire::Backend> {
        let backends = self.sent(waypoint).backends.iter();
        backends
            .map(|(name, b)| (name.clone(), wire::Backend::decode(b.as_slice()).unwrap()))
            .collect()
    }

    pub(super) fn attached(&self, service: &str) -> Vec<wire::AttachedRoute> {
        let mut all = self.services_of("waypoint").into_iter();
        all.find(|s| s.name == service)
            .map(|s| s.routes)
            .unwrap_or_default()
    }

    fn route_summary(&self, namespace: &str, name: &str) -> RouteSummary {
        let id = RouteId::new::<HttpRouteKind>(&Key::new(namespace, name));
        self.index.route_summary(&id).unwrap()
    }

    /// Conditions at the route's first parent: type, status and reason.
    fn conditions(&self, namespace: &str, name: &str) -> Vec<(&'static str, bool, &'static str)> {
        let summary = self.route_summary(namespace, name);
        let conditions = summary.parents[0].conditions.iter();
        conditions.map(|c| (c.kind, c.status, c.reason)).collect()
    }
}

pub(super) fn parent(service: &str) -> Value {
    json!([{"group": "", "kind": "Service", "name": service}])
}

pub(super) fn backend(service: &str, weight: u32) -> Value {
    json!({"group": "", "kind": "Service", "name": service, "port": 80, "weight": weight})
}

/// 90 to 10 between `web` and `web-v2`.
pub(super) fn split() -> Value {
    json!({"parentRefs": parent("web"), "rules": [{"backendRefs": [backend("web", 90), backend("web-v2", 10)]}]})
}

#[test]
fn a_route_brings_a_waypoint_about_which_is_sent_the_route_and_its_backends() {
    let mut world = World::canary();
    world.route("shop", "split", split());
    assert!(world.summary("waypoint").unwrap().desired);
    assert_eq!(
        world.conditions("shop", "split"),
        [
            ("Accepted", true, "Accepted"),
            ("ResolvedRefs", true, "ResolvedRefs"),
            ("Programmed", false, "WaypointNotReady")
        ]
    );
    // Only the parent is bound.
    assert_eq!(world.served("waypoint"), ["web"]);
    let attached = &world.attached("web")[0];
    assert_eq!(
        (
            attached.route.as_str(),
            attached.ports.len(),
            attached.consumers.as_str()
        ),
        ("HTTPRoute/shop/split", 0, "")
    );
    let requires = world.services_of("waypoint").remove(0).requires;
    assert_eq!(requires, ["routes"]);
    let rule = &world.routes_of("waypoint")["HTTPRoute/shop/split"].rules[0];
    let shares: Vec<_> = rule
        .backends
        .iter()
        .map(|b| (&*b.backend, b.port, b.weight))
        .collect();
    assert_eq!(
        shares,
        [
            ("shop/web.shop.svc.cluster.local", 80, 90),
            ("shop/web-v2.shop.svc.cluster.local", 80, 10)
        ]
    );
    let backends: Vec<_> = world.backends_of("waypoint").into_keys().collect();
    assert_eq!(
        backends,
        [
            "shop/web-v2.shop.svc.cluster.local",
            "shop/web.shop.svc.cluster.local"
        ]
    );
    // With their endpoints.
    assert_eq!(world.sent("waypoint").workloads.len(), 2);

    world.waypoint("shop", "waypoint", true);
    world.settle();
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    assert_eq!(world.bound("web-v2"), None);
    assert_eq!(
        world.conditions("shop", "split")[2],
        ("Programmed", true, "Programmed")
    );

    world.delete_route("split");
    world.settle();
    assert_eq!(world.bound("web"), None);
}

#[test]
fn references_are_checked_and_what_is_not_valid_keeps_its_share() {
    let mut world = World::canary();
    world.route(
        "shop",
        "split",
        json!({"parentRefs": parent("web"), "rules": [
            {"backendRefs": [backend("web", 1), backend("missing", 1)]},
            {"backendRefs": [{"kind": "Bucket", "name": "x"}]},
            {"backendRefs": [{"name": "web", "port": 81}]},
        ]}),
    );
    let conditions = world.conditions("shop", "split");
    assert_eq!(conditions[0], ("Accepted", true, "Accepted"));
    assert_eq!(conditions[1], ("ResolvedRefs", false, "BackendNotFound"));
    let message = &world.route_summary("shop", "split").parents[0].conditions[1].message;
    for part in [
        "spec.rules[0].backendRefs[1]: there is no Service missing in namespace shop",
        "spec.rules[1].backendRefs[0]: kind \"Bucket\"",
        "spec.rules[2].backendRefs[0]: Service shop/web has no TCP port 81",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let rules = &world.routes_of("waypoint")["HTTPRoute/shop/split"].rules;
    let invalid = &rules[0].backends[1];
    assert!(invalid.backend.is_empty() && invalid.weight == 1 && !invalid.invalid.is_empty());

    // It comes.
    world.web_service("shop", "missing", "10.96.0.3", json!({}));
    let rules = &world.routes_of("waypoint")["HTTPRoute/shop/split"].rules;
    assert_eq!(
        rules[0].backends[1].backend,
        "shop/missing.shop.svc.cluster.local"
    );
}

#[test]
fn another_namespace_has_to_grant_the_reference_and_its_rules_come_along() {
    let mut world = World::canary();
    world.namespace("other", Some("ambient"));
    world.web_service("other", "store", "10.96.0.9", json!({}));
    world.pod(&with(
        marked(pod("s", "10.0.0.9")),
        "/metadata/namespace",
        json!("other"),
    ));
    world.endpoints("other", "store", &["s"]);
    let mut spec = split();
    spec["rules"][0]["backendRefs"][1] = json!({"namespace": "other", "name": "store", "port": 80});
    world.route("shop", "split", spec);
    assert_eq!(
        world.conditions("shop", "split")[1],
        ("ResolvedRefs", false, "RefNotPermitted")
    );
    assert!(
        !world
            .backends_of("waypoint")
            .contains_key("other/store.other.svc.cluster.local")
    );

    let grant: GrantSpec = serde_json::from_value(json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service", "name": "store"}],
    }))
    .unwrap();
    world
        .index
        .set_grant(&Key::new("other", "from-shop"), Some(grant));
    world.flush();
    assert_eq!(
        world.conditions("shop", "split")[1],
        ("ResolvedRefs", true, "ResolvedRefs")
    );
    assert!(
        world
            .backends_of("waypoint")
            .contains_key("other/store.other.svc.cluster.local")
    );
    assert_eq!(world.sent("waypoint").workloads.len(), 2, "a and s");

    // A new pod behind it, and rules of its own.
    world.pod(&with(
        marked(pod("t", "10.0.0.10")),
        "/metadata/namespace",
        json!("other"),
    ));
    world.endpoints("other", "store", &["s", "t"]);
    assert_eq!(world.sent("waypoint").workloads.len(), 3);
    let policy: WaypointPolicy = object(
        json!({"metadata": {"name": "own", "namespace": "other"}, "spec": {
            "targetRefs": [{"kind": "Service", "name": "store"}],
            "authorization": [{"name": "readers", "action": "Allow", "methods": ["GET"]}],
        }}),
    );
    world
        .index
        .set_policy(&Key::new("other", "own"), Some(PolicyRecord::of(&policy)));
    world.flush();
    let backend = &world.backends_of("waypoint")["other/store.other.svc.cluster.local"];
    assert_eq!(backend.authorization[0].policies, ["other/own"]);
    assert!(world.sent("waypoint").policies.contains_key("other/own"));
}

/// A pod of a backend in another namespace is not reached at its own address, whatever pod of its name is here.
#[test]
fn pods_of_backends_elsewhere_are_endpoints_and_no_more() {
    let mut world = World::canary();
    world.namespace_labels(
        "shop",
        json!({"istio.io/waypoint-for": "all", "istio.io/use-waypoint": "waypoint"}),
    );
    world.namespace("other", Some("ambient"));
    world.web_service("other", "store", "10.96.0.9", json!({}));
    // Named like the pod of shop.
    world.pod(&with(
        marked(pod("a", "10.0.0.9")),
        "/metadata/namespace",
        json!("other"),
    ));
    world.endpoints("other", "store", &["a"]);
    let grant: GrantSpec = serde_json::from_value(json!({
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}],
    }))
    .unwrap();
    world
        .index
        .set_grant(&Key::new("other", "from-shop"), Some(grant));
    let mut spec = split();
    spec["rules"][0]["backendRefs"][1] = json!({"namespace": "other", "name": "store", "port": 80});
    world.route("shop", "split", spec);
    world.waypoint("shop", "waypoint", true);
    world.settle();
    let workloads = world.sent("waypoint").workloads.values();
    let workloads = workloads.map(|b| ambit_wire::workload::Workload::decode(b.as_slice()).unwrap());
    let reached: BTreeMap<String, bool> = workloads
        .filter(|w| w.name == "a")
        .map(|w| (w.namespace, w.waypoint.is_some()))
        .collect();
    assert_eq!(reached, [("other".into(), false), ("shop".into(), true)].into());
}

#[test]
fn a_parent_that_is_not_there_or_has_no_such_port_is_no_parent() {
    let mut world = World::canary();
    world.route(
        "shop",
        "nowhere",
        json!({"parentRefs": parent("missing"), "rules": []}),
    );
    assert_eq!(
        world.conditions("shop", "nowhere")[0],
        ("Accepted", false, "NoMatchingParent")
    );
    let mut spec = split();
    spec["parentRefs"][0]["port"] = json!(81);
    world.route("shop", "split", spec.clone());
    assert_eq!(
        world.conditions("shop", "split")[0],
        ("Accepted", false, "NoMatchingParent")
    );
    assert!(
        world.index.waypoints_in("shop").is_empty(),
        "nothing asks for one"
    );
    spec["parentRefs"][0]["port"] = json!(80);
    world.route("shop", "split", spec);
    assert_eq!(world.attached("web")[0].ports, [80]);
}

#[test]
fn a_rule_that_is_not_supported_is_closed_and_the_others_hold() {
    let mut world = World::canary();
    let mut spec = split();
    let unsupported = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/new"}}],
        "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}}],
        "backendRefs": [backend("web", 1)],
    });
    spec["rules"].as_array_mut().unwrap().push(unsupported.clone());
    world.route("shop", "split", spec.clone());
    let conditions = world.conditions("shop", "split");
    assert_eq!(conditions[0], ("Accepted", true, "Accepted"));
    assert_eq!(conditions[2], ("PartiallyInvalid", true, "UnsupportedValue"));
    let message = world.said_of_route("split", "PartiallyInvalid").message;
    assert!(message.starts_with("Dropped Rule"), "{message}");
    let rules = &world.routes_of("waypoint")["HTTPRoute/shop/split"].rules;
    assert_eq!(
        rules[1].invalid,
        "spec.rules[1].filters[0]: type \"ExtensionRef\" is not supported"
    );
    assert_eq!((rules[1].matches.len(), rules[1].backends.len()), (1, 0));

    spec["rules"] = json!([unsupported]);
    world.route("shop", "split", spec);
    assert_eq!(
        world.conditions("shop", "split")[0],
        ("Accepted", false, "UnsupportedValue")
    );
}

#[test]
fn routes_of_other_namespaces_are_for_their_own_callers_and_older_ones_come_first() {
    let mut world = World::canary();
    let of = |created: &str, namespace: &str, name: &str, spec: Value| {
        let route: HttpRoute = object(json!({
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec,
        }));
        let id = RouteId::new::<HttpRouteKind>(&Key::new(namespace, name));
        (id, RouteRecord::of(&route))
    };
    let mut consumer = split();
    consumer["parentRefs"][0]["namespace"] = json!("shop");
    consumer["rules"] = json!([]);
    for (id, record) in [
        of("2026-01-02T00:00:00Z", "shop", "a", split()),
        of("2026-01-01T00:00:00Z", "shop", "b", split()),
        of("2026-01-03T00:00:00Z", "client", "c", consumer),
    ] {
        world.index.set_route(&id, Some(record));
    }
    world.flush();
    let attached = world.attached("web");
    let attached: Vec<_> = attached.iter().map(|a| (&*a.route, &*a.consumers)).collect();
    assert_eq!(
        attached,
        [
            ("HTTPRoute/shop/b", ""),
            ("HTTPRoute/shop/a", ""),
            ("HTTPRoute/client/c", "client")
        ]
    );
}

/// Who may write routes in one namespace may not bring pods about in another, or lead its connections elsewhere.
#[test]
fn a_route_of_consumers_asks_for_no_waypoint() {
    let mut world = World::canary();
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "namespace": "shop", "name": "web"}],
        "rules": [{"backendRefs": [{"namespace": "shop", "name": "web", "port": 80}]}]});
    world.route("client", "own", route);
    assert!(world.index.waypoints_in("shop").is_empty());
    assert_eq!(
        world.conditions("client", "own")[0],
        ("Accepted", true, "Accepted")
    );
    assert_eq!(
        world.conditions("client", "own")[2],
        ("Programmed", false, "NoWaypoint")
    );

    // The Service's own namespace has one for a reason of its own.
    world.policy("orders", orders());
    world.waypoint("shop", "waypoint", true);
    world.settle();
    assert_eq!(world.attached("web")[0].consumers, "client");
    assert_eq!(
        world.conditions("client", "own")[2],
        ("Programmed", true, "Programmed")
    );
}

/// GEP-1294: the consumers could send their requests to the parent without a route.
#[test]
fn route_of_consumers_needs_no_grant_for_its_parent_alone() {
    let mut world = World::canary();
    let to = |name: &str| json!({"namespace": "shop", "name": name, "port": 80});
    let route = |name: &str| {
        json!({"parentRefs": [{"group": "", "kind": "Service", "namespace": "shop", "name": "web"}],
            "rules": [{"backendRefs": [to(name)]}]})
    };
    world.route("client", "own", route("web"));
    world.route("client", "other", route("web-v2"));
    assert_eq!(
        world.conditions("client", "own")[1],
        ("ResolvedRefs", true, "ResolvedRefs")
    );
    assert_eq!(
        world.conditions("client", "other")[1],
        ("ResolvedRefs", false, "RefNotPermitted")
    );
}

#[test]
fn methods_of_grpc_are_read_from_the_same_fields() {
    let mut world = World::canary();
    let route: GrpcRoute = object(json!({
        "metadata": {"name": "calls", "namespace": "shop"},
        "spec": {"parentRefs": parent("web"), "rules": [{
            "matches": [{"method": {"service": "shop.Orders", "method": "Get"}}],
            "backendRefs": [backend("web", 1)],
        }]},
    }));
    let id = RouteId::new::<GrpcRouteKind>(&Key::new("shop", "calls"));
    world.index.set_route(&id, Some(RouteRecord::of(&route)));
    world.flush();
    let rule = &world.routes_of("waypoint")["GRPCRoute/shop/calls"].rules[0];
    let method = rule.matches[0].grpc.as_ref().unwrap();
    assert_eq!((&*method.service, &*method.method), ("shop.Orders", "Get"));
}

/// A waypoint sends requests in clear, and sees none in what it passes through.
#[test]
fn ports_that_are_not_http_are_said_to_be_so() {
    let mut world = World::canary();
    world.waypoint("shop", "waypoint", true);
    let with_protocol = |name: &str, ip: &str, protocol: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": ip, "ports": [{"name": "main", "port": 80, "targetPort": 8080, "appProtocol": protocol}]},
        })
    };
    world.service(with_protocol("web-v2", "10.96.0.2", "https"));
    world.route("shop", "split", split());
    let resolved = world.said_of_route("split", "ResolvedRefs");
    assert_eq!((resolved.status, resolved.reason), (false, "UnsupportedProtocol"));
    assert!(
        resolved
            .message
            .contains("port 80 of Service shop/web-v2 has TLS"),
        "{}",
        resolved.message
    );
    world.service(with_protocol("web-v2", "10.96.0.2", "http"));
    assert!(world.said_of_route("split", "ResolvedRefs").status);
    for protocol in ["tcp", "https"] {
        world.service(with_protocol("web", "10.96.0.1", protocol));
        let programmed = world.said_of_route("split", "Programmed");
        assert_eq!(
            (programmed.status, programmed.reason),
            (false, "UnsupportedProtocol")
        );
    }
    world.service(with_protocol("web", "10.96.0.1", "http"));
    assert!(world.said_of_route("split", "Programmed").status);
}

impl World {
    fn said_of_route(&self, route: &str, kind: &str) -> crate::index::RouteCondition {
        let id = RouteId::new::<HttpRouteKind>(&Key::new("shop", route));
        let summary = self.index.route_summary(&id).unwrap();
        let mut conditions = summary.parents[0].conditions.iter();
        conditions
            .find(|condition| condition.kind == kind)
            .unwrap()
            .clone()
    }
}
