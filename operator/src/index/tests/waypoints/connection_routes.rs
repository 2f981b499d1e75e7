//! `TCPRoute` and `TLSRoute` with Services as parents, and which route a port has where there are several.

use crate::gateway::{GrantSpec, HttpRouteKind, Route, RouteKind, TcpRouteKind, TlsRouteKind};
use crate::index::{RouteId, RouteParentSummary, RouteRecord};

use super::routes::{backend, parent};
use super::*;

type Tcp = TcpRouteKind;
type Tls = TlsRouteKind;

impl World {
    /// `canary`, whose Service `web` has the ports 80 and 443.
    fn ports() -> Self {
        let mut world = Self::canary();
        world.service(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"},
                {"name": "https", "port": 443, "targetPort": 8443},
            ]},
        }));
        world
    }

    /// A route that was made on this day of a month.
    fn route_of<K: RouteKind>(&mut self, day: u8, name: &str, spec: Value) {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let route: Route<K> = object(json!({
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
            "spec": spec,
        }));
        let id = RouteId::new::<K>(&Key::new(namespace, name));
        self.index.set_route(&id, Some(RouteRecord::of(&route)));
        self.flush();
    }

    fn parents_of<K: RouteKind>(&self, name: &str) -> Vec<RouteParentSummary> {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        let id = RouteId::new::<K>(&Key::new(namespace, name));
        self.index.route_summary(&id).unwrap().parents
    }

    /// A condition at the first parent: status, reason and message.
    fn condition<K: RouteKind>(&self, name: &str, kind: &str) -> (bool, &'static str, String) {
        let conditions = self.parents_of::<K>(name).remove(0).conditions;
        let found = conditions.into_iter().find(|c| c.kind == kind).unwrap();
        (found.status, found.reason, found.message)
    }

    /// Routes of `web` with their ports and the namespace of their consumers.
    fn applying(&self) -> Vec<(String, Vec<u32>, String)> {
        let attached = self.attached("web").into_iter();
        attached.map(|a| (a.route, a.ports, a.consumers)).collect()
    }
}

fn to(rules: Value) -> Value {
    json!({"parentRefs": parent("web"), "rules": rules})
}

fn at(port: u16, rules: Value) -> Value {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": port}], "rules": rules})
}

fn split() -> Value {
    json!([{"name": "all", "backendRefs": [backend("web", 90), backend("web-v2", 10)]}])
}

fn named(hostnames: &[&str]) -> Value {
    json!({"parentRefs": parent("web"), "hostnames": hostnames, "rules": split()})
}

#[test]
fn a_tcp_route_brings_a_waypoint_about_that_must_understand_it() {
    let mut world = World::canary();
    world.route_of::<Tcp>(1, "split", to(split()));
    assert!(world.summary("waypoint").unwrap().desired);
    assert_eq!(
        world.applying(),
        [("TCPRoute/shop/split".into(), vec![], String::new())]
    );
    let requires = world.services_of("waypoint").remove(0).requires;
    assert_eq!(requires, ["routes", "connection-routes"]);
    let route = &world.routes_of("waypoint")["TCPRoute/shop/split"];
    assert_eq!(route.requires, ["connection-routes"]);
    let shares: Vec<_> = route.rules[0]
        .backends
        .iter()
        .map(|b| (b.port, b.weight))
        .collect();
    assert_eq!((&*route.rules[0].name, shares), ("all", vec![(80, 90), (80, 10)]));
    assert_eq!(world.backends_of("waypoint").len(), 2);

    world.waypoint("shop", "waypoint", true);
    world.settle();
    let said: Vec<_> = world.parents_of::<Tcp>("split")[0]
        .conditions
        .iter()
        .map(|c| (c.kind, c.status, c.reason))
        .collect();
    assert_eq!(
        said,
        [
            ("Accepted", true, "Accepted"),
            ("ResolvedRefs", true, "ResolvedRefs"),
            ("Programmed", true, "Programmed")
        ]
    );
}

#[test]
fn references_of_a_tcp_route_are_checked_with_grants_of_its_own_kind() {
    let mut world = World::canary();
    world.namespace("other", Some("ambient"));
    world.web_service("other", "store", "10.96.0.9", json!({}));
    let elsewhere = json!({"namespace": "other", "name": "store", "port": 80});
    world.route_of::<Tcp>(
        1,
        "split",
        to(json!([{"backendRefs": [elsewhere, backend("missing", 1)]}])),
    );
    let (status, reason, message) = world.condition::<Tcp>("split", "ResolvedRefs");
    assert_eq!((status, reason), (false, "RefNotPermitted"));
    for part in [
        "no ReferenceGrant in namespace other lets a TCPRoute of shop",
        "spec.rules[0].backendRefs[1]: there is no Service missing",
        "their share of the connections is closed",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let granted = |kind: &str| -> GrantSpec {
        serde_json::from_value(json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "shop"}],
            "to": [{"group": "", "kind": "Service"}],
        }))
        .unwrap()
    };
    for (kind, reason) in [("HTTPRoute", "RefNotPermitted"), ("TCPRoute", "BackendNotFound")] {
        world
            .index
            .set_grant(&Key::new("other", "from-shop"), Some(granted(kind)));
        world.flush();
        assert_eq!(
            world.condition::<Tcp>("split", "ResolvedRefs").1,
            reason,
            "{kind}"
        );
    }
    let backends = &world.routes_of("waypoint")["TCPRoute/shop/split"].rules[0].backends;
    assert_eq!(backends[0].backend, "other/store.other.svc.cluster.local");
    assert!(backends[1].backend.is_empty() && !backends[1].invalid.is_empty());
}

#[test]
fn the_oldest_tcp_route_has_a_port_and_both_are_accepted() {
    let mut world = World::ports();
    world.route_of::<Tcp>(2, "newer", to(split()));
    world.route_of::<Tcp>(1, "older", at(80, split()));
    world.route_of::<Tcp>(3, "newest", at(80, split()));
    assert_eq!(
        world.applying(),
        [
            ("TCPRoute/shop/older".into(), vec![80], String::new()),
            ("TCPRoute/shop/newer".into(), vec![443], String::new())
        ]
    );
    let (status, reason, message) = world.condition::<Tcp>("newest", "Accepted");
    assert_eq!((status, reason), (true, "Accepted"));
    let lost = "port 80 has TCPRoute/shop/older, which takes precedence";
    assert!(message.ends_with(lost), "{message}");
    assert_eq!(
        world.condition::<Tcp>("newest", "Programmed"),
        (false, "Conflicted", lost.to_owned())
    );
    // It has another port.
    assert!(world.condition::<Tcp>("newer", "Accepted").2.ends_with(lost));
    assert_eq!(
        world.condition::<Tcp>("newer", "Programmed").1,
        "WaypointNotReady"
    );
    assert_eq!(
        world.condition::<Tcp>("older", "Accepted").2,
        "the route is valid"
    );

    world
        .index
        .set_route(&RouteId::new::<Tcp>(&Key::new("shop", "older")), None);
    world.flush();
    assert_eq!(
        world.applying(),
        [("TCPRoute/shop/newer".into(), vec![], String::new())]
    );
    assert_eq!(
        world.condition::<Tcp>("newer", "Accepted").2,
        "the route is valid"
    );
}

/// GEP-1294: HTTPRoute (and GRPCRoute), then TLSRoute, then TCPRoute, whatever their age.
#[test]
fn the_most_specific_kind_has_a_port_and_others_are_conflicted() {
    let mut world = World::ports();
    world.route_of::<Tcp>(1, "tcp", to(split()));
    world.route_of::<Tls>(2, "tls", named(&["a.example.com"]));
    world.route_of::<HttpRouteKind>(3, "http", at(80, split()));
    assert_eq!(
        world.applying(),
        [
            ("TLSRoute/shop/tls".into(), vec![443], String::new()),
            ("HTTPRoute/shop/http".into(), vec![80], String::new())
        ]
    );
    let (status, reason, message) = world.condition::<Tcp>("tcp", "Accepted");
    assert_eq!((status, reason), (false, "Conflicted"));
    assert_eq!(
        message,
        "port 80 has HTTPRoute/shop/http, which is more specific; port 443 has TLSRoute/shop/tls, which is more specific"
    );
    assert_eq!(world.condition::<Tcp>("tcp", "Programmed").1, "NotAccepted");
    let (status, _, message) = world.condition::<Tls>("tls", "Accepted");
    assert!(
        status && message.contains("port 80 has HTTPRoute/shop/http"),
        "{message}"
    );
    assert_eq!(
        world.condition::<HttpRouteKind>("http", "Accepted").2,
        "the route is valid"
    );
}

/// A consumer's route replaces the others for its own callers: there is no conflict.
#[test]
fn a_consumers_tcp_route_does_not_give_way_to_an_http_route() {
    let mut world = World::ports();
    world.route_of::<HttpRouteKind>(1, "http", to(split()));
    let mut consumer = to(json!([{"backendRefs": [{"namespace": "shop", "name": "web", "port": 80}]}]));
    consumer["parentRefs"][0]["namespace"] = json!("shop");
    world.route_of::<Tcp>(2, "client/own", consumer);
    assert_eq!(
        world.applying(),
        [
            ("HTTPRoute/shop/http".into(), vec![], String::new()),
            ("TCPRoute/client/own".into(), vec![], "client".into())
        ]
    );
    assert_eq!(
        world.condition::<Tcp>("client/own", "Accepted").2,
        "the route is valid"
    );
}

#[test]
fn tls_routes_share_a_port_and_host_names_of_older_ones_are_named() {
    let mut world = World::canary();
    world.route_of::<Tls>(1, "older", named(&["a.example.com", "*.example.org"]));
    world.route_of::<Tls>(2, "newer", named(&["A.example.com", "b.example.com"]));
    world.route_of::<Tls>(3, "hidden", named(&["a.example.com"]));
    assert_eq!(world.applying().len(), 3);
    assert_eq!(
        world.routes_of("waypoint")["TLSRoute/shop/older"].hostnames,
        ["a.example.com", "*.example.org"]
    );
    let (status, _, message) = world.condition::<Tls>("newer", "Accepted");
    assert!(status);
    let taken = "; TLSRoute/shop/older has the host name A.example.com";
    assert!(message.ends_with(taken), "{message}");
    assert_eq!(
        world.condition::<Tls>("newer", "Programmed").1,
        "WaypointNotReady"
    );
    let (status, reason, _) = world.condition::<Tls>("hidden", "Programmed");
    assert_eq!((status, reason), (false, "Conflicted"));
}

#[test]
fn a_port_or_section_that_is_not_there_is_no_parent() {
    let mut world = World::ports();
    let mut spec = to(split());
    spec["parentRefs"] = json!([
        {"group": "", "kind": "Service", "name": "web", "sectionName": "https"},
        {"group": "", "kind": "Service", "name": "web", "port": 81},
    ]);
    world.route_of::<Tcp>(1, "split", spec);
    assert_eq!(
        world.applying(),
        [("TCPRoute/shop/split".into(), vec![443], String::new())]
    );
    let accepted: Vec<_> = world
        .parents_of::<Tcp>("split")
        .iter()
        .map(|parent| (parent.conditions[0].status, parent.conditions[0].reason))
        .collect();
    assert_eq!(accepted, [(true, "Accepted"), (false, "NoMatchingParent")]);
}

#[test]
fn a_port_that_is_named_twice_is_lost_once_and_udp_is_no_conflict() {
    let mut world = World::ports();
    world.route_of::<Tcp>(1, "older", at(80, split()));
    let mut spec = to(split());
    spec["parentRefs"] = json!([
        {"group": "", "kind": "Service", "name": "web"},
        {"group": "", "kind": "Service", "name": "web", "port": 80},
    ]);
    world.route_of::<Tcp>(2, "twice", spec);
    let message = world.condition::<Tcp>("twice", "Accepted").2;
    assert_eq!(message.matches("port 80").count(), 1, "{message}");
    // The parent of all ports has one left, that of port 80 none.
    let parents = world.parents_of::<Tcp>("twice");
    let programmed: Vec<_> = parents.iter().map(|parent| parent.conditions[2].reason).collect();
    assert_eq!(programmed, ["WaypointNotReady", "Conflicted"]);

    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    }));
    world.flush();
    assert_eq!(
        world.condition::<Tcp>("twice", "Programmed").1,
        "WaypointNotReady"
    );
}

#[test]
fn backends_come_with_their_session_affinity() {
    let mut world = World::canary();
    world.service(json!({
        "metadata": {"name": "web-v2", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.2", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }));
    world.route_of::<Tcp>(1, "split", to(split()));
    let backends = world.backends_of("waypoint").into_values();
    let affinities: Vec<u32> = backends.map(|backend| backend.session_affinity_seconds).collect();
    assert_eq!(affinities, [60, 0]);
}
