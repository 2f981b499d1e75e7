//! Policies for routes, for their rules, and for ports of Services.

use super::guards::{CLIENT_ID, WAYPOINT_ID};
use super::routes::{backend, parent, split};
use super::*;

fn target(kind: &str, name: &str, section: Option<&str>) -> Value {
    let group = if kind.ends_with("Route") {
        "gateway.networking.k8s.io"
    } else {
        ""
    };
    let mut target = json!({"group": group, "kind": kind, "name": name});
    if let Some(section) = section {
        target["sectionName"] = json!(section);
    }
    target
}

/// A policy with rules for this.
fn rules_for(kind: &str, name: &str, section: Option<&str>) -> Value {
    with(orders(), "/targetRefs", json!([target(kind, name, section)]))
}

/// One with a timeout.
fn timeout_for(kind: &str, name: &str, section: Option<&str>) -> Value {
    json!({"targetRefs": [target(kind, name, section)], "timeouts": {"request": "1s"}})
}

/// The route of `split`, with a rule `canary` of its own before.
fn named() -> Value {
    json!({"parentRefs": parent("web"), "rules": [
        {"name": "canary", "matches": [{"path": {"type": "PathPrefix", "value": "/new"}}], "backendRefs": [backend("web-v2", 1)]},
        {"name": "rest", "backendRefs": [backend("web", 1)]},
    ]})
}

impl World {
    /// `canary`, with this route.
    fn routed(spec: Value) -> Self {
        let mut world = Self::canary();
        world.route("shop", "split", spec);
        world.waypoint("shop", "waypoint", true);
        world.settle();
        world
    }

    /// What the policies say of the rules of `split`: sets, timeout.
    fn of_rules(&self) -> Vec<(Vec<Vec<String>>, String)> {
        let route = &self.routes_of("waypoint")["HTTPRoute/shop/split"];
        let rules = route.rules.iter().map(|rule| {
            let policies = rule.policies.clone().unwrap_or_default();
            let sets = policies.authorization.into_iter().map(|set| set.policies);
            (sets.collect(), policies.timeout)
        });
        rules.collect()
    }

    fn set(&mut self, namespace: &str, name: &str, spec: Value) {
        let policy: WaypointPolicy =
            object(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}));
        let key = Key::new(namespace, name);
        self.index.set_policy(&key, Some(PolicyRecord::of(&policy)));
        self.flush();
    }
}

fn sets(names: &[&str]) -> Vec<Vec<String>> {
    names.iter().map(|name| vec![format!("shop/{name}")]).collect()
}

#[test]
fn a_policy_for_a_route_comes_with_the_route_and_closes_the_pods_of_its_services() {
    let mut world = World::routed(split());
    assert!(world.admits("a", 8080, Some(CLIENT_ID)));
    world.policy("p", rules_for("HTTPRoute", "split", None));
    world.settle();
    assert_eq!(world.of_rules(), [(sets(&["p"]), String::new())]);
    let route = &world.routes_of("waypoint")["HTTPRoute/shop/split"];
    assert_eq!(route.requires, ["scoped-policies"]);
    assert!(world.sent("waypoint").policies.contains_key("shop/p"));
    // It is not the Service's.
    let service = world.services_of("waypoint").remove(0);
    assert!(service.authorization.is_empty() && service.others.is_empty());

    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));
    let found = world.target("p");
    assert_eq!(found.waypoint, Some(Key::new("shop", "waypoint")));
    assert_eq!(found.guarded_pods, Some(1));
    assert!(world.admits("a", 8080, Some(WAYPOINT_ID)) && !world.admits("a", 8080, Some(CLIENT_ID)));
    // The other backend is a Service of its own, which the status says.
    assert!(world.admits("b", 8080, Some(CLIENT_ID)));
    assert_eq!(
        found.programmed.message,
        "waypoint shop/waypoint enforces it at Service web; requests to Service web-v2 that do not come through the \
         route do not pass it: a policy for them would be asked in any case"
    );
    world.policy("q", rules_for("Service", "web-v2", None));
    world.settle();
    assert_eq!(
        world.target("p").programmed.message,
        "waypoint shop/waypoint enforces it at Service web"
    );

    world.delete_policy("p");
    world.settle();
    assert_eq!(world.of_rules(), [(Vec::new(), String::new())]);
    assert!(world.admits("a", 8080, Some(CLIENT_ID)));
}

#[test]
fn the_nearest_goes_before_then_the_oldest() {
    let mut world = World::routed(named());
    world.policy("route", timeout_for("HTTPRoute", "split", None));
    world.policy("rule", timeout_for("HTTPRoute", "split", Some("canary")));
    world.policy("all", timeout_for("Namespace", "shop", None));
    world.policy("service", timeout_for("Service", "web", None));
    world.policy("port", timeout_for("Service", "web", Some("http")));
    world.settle();
    let timeouts: Vec<String> = world.of_rules().into_iter().map(|(_, timeout)| timeout).collect();
    assert_eq!(timeouts, ["shop/rule", "shop/route"]);
    let service = world.services_of("waypoint");
    let service = service.iter().find(|service| service.name == "web").unwrap();
    assert_eq!(service.timeout, "shop/service");
    assert_eq!(service.ports[0].policies.as_ref().unwrap().timeout, "shop/port");
    let said = world.target("route").programmed.message;
    assert!(
        said.ends_with("at spec.rules[0] of the route, shop/rule has precedence for its timeouts"),
        "{said}"
    );
    // Of two for the same rule the older.
    let older = json!({
        "metadata": {"name": "zzz", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": timeout_for("HTTPRoute", "split", Some("canary")),
    });
    let newer = json!({
        "metadata": {"name": "rule", "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": timeout_for("HTTPRoute", "split", Some("canary")),
    });
    world.policy_object(older);
    world.policy_object(newer);
    assert_eq!(world.of_rules()[0].1, "shop/zzz");
    // What the route says itself goes before all.
    let mut own = named();
    own["rules"][0]["timeouts"] = json!({"request": "2s"});
    world.route("shop", "split", own);
    let said = world.target("zzz").programmed.message;
    assert!(
        said.ends_with("spec.rules[0].timeouts of the route has precedence for it"),
        "{said}"
    );
}

#[test]
fn a_policy_for_a_rule_is_for_that_rule_alone_and_waits_for_it() {
    let mut world = World::routed(named());
    world.policy("p", rules_for("HTTPRoute", "split", Some("canary")));
    world.policy("r", rules_for("HTTPRoute", "split", None));
    world.settle();
    assert_eq!(
        world.of_rules(),
        [(sets(&["p", "r"]), String::new()), (sets(&["r"]), String::new())]
    );
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));

    for (kind, name, section, said) in [
        (
            "HTTPRoute",
            "split",
            Some("nobody"),
            "spec.targetRefs[0]: HTTPRoute split (rule nobody) has no rule with that name",
        ),
        (
            "HTTPRoute",
            "nobody",
            None,
            "spec.targetRefs[0]: namespace shop has no HTTPRoute \"nobody\"",
        ),
        (
            "GRPCRoute",
            "split",
            None,
            "spec.targetRefs[0]: namespace shop has no GRPCRoute \"split\"",
        ),
        (
            "Service",
            "web",
            Some("metrics"),
            "spec.targetRefs[0]: Service web (port metrics) has no TCP port with that name",
        ),
    ] {
        world.policy("w", rules_for(kind, name, section));
        assert_eq!(world.reasons("w"), ("TargetNotFound", "TargetNotFound"));
        let found = world.target("w").accepted.message;
        assert_eq!(found, said);
    }
    // The rule comes.
    world.policy("w", rules_for("HTTPRoute", "split", Some("later")));
    let mut spec = named();
    spec["rules"][1]["name"] = json!("later");
    world.route("shop", "split", spec);
    world.settle();
    assert_eq!(world.reasons("w"), ("Accepted", "Programmed"));
    assert_eq!(world.of_rules()[1].0, sets(&["w", "r"]));
}

/// Who renames a rule in the policy by mistake must not release the one that it protects.
#[test]
fn an_unknown_rule_keeps_the_version_before() {
    let mut world = World::routed(named());
    world.policy("p", rules_for("HTTPRoute", "split", Some("canary")));
    world.policy_object(json!({
        "metadata": {"name": "p", "generation": 2}, "spec": rules_for("HTTPRoute", "split", Some("canari")),
    }));
    assert_eq!(world.of_rules()[0].0, sets(&["p"]));
    let said = world.target("p").accepted.message;
    assert!(said.ends_with("generation 0 stays in force until then"), "{said}");
}

#[test]
fn a_policy_for_a_port_is_for_that_port_and_closes_no_other() {
    let mut world = World::shop();
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81, "targetPort": 9090},
    ]);
    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.1", "ports": ports},
    }));
    world.slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}],
    }));
    world.policy("p", rules_for("Service", "web", Some("admin")));
    world.waypoint("shop", "waypoint", true);
    world.settle();
    let service = world.services_of("waypoint").remove(0);
    assert!(service.authorization.is_empty());
    let of_ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.port, port.policies.is_some()))
        .collect();
    assert_eq!(of_ports, [(80, false), (81, true)]);
    assert_eq!(service.requires, ["scoped-policies"]);
    assert!(!world.admits("a", 9090, Some(CLIENT_ID)) && world.admits("a", 9090, Some(WAYPOINT_ID)));
    assert!(world.admits("a", 8080, Some(CLIENT_ID)));
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));

    // A second Service of the same pods: its port that leads to the same port of theirs, and no other.
    world.service(json!({
        "metadata": {"name": "alias", "namespace": "shop", "labels": use_waypoint("waypoint")},
        "spec": {"clusterIP": "10.96.0.7", "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 82, "targetPort": 9090},
        ]},
    }));
    world.slice(json!({
        "metadata": {"name": "alias-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "alias"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}],
    }));
    let services = world.services_of("waypoint");
    let alias = services.iter().find(|service| service.name == "alias").unwrap();
    let of_ports: Vec<_> = alias
        .ports
        .iter()
        .map(|port| {
            (
                port.port,
                port.policies
                    .as_ref()
                    .map(|p| p.authorization[0].policies.clone()),
            )
        })
        .collect();
    assert_eq!(of_ports, [(80, None), (82, Some(vec!["shop/p".to_owned()]))]);
}

/// Who may write Services must not get around the policy of a route by a second one; but the route itself may send
/// requests there.
#[test]
fn a_second_service_of_the_same_pods_has_the_rules_of_the_route_too() {
    let mut world = World::canary();
    world.endpoints("shop", "web-v2", &["a"]);
    world.web_service("shop", "web-v2", "10.96.0.2", use_waypoint("waypoint"));
    world.route("shop", "split", split());
    world.policy("p", rules_for("HTTPRoute", "split", None));
    world.waypoint("shop", "waypoint", true);
    world.settle();
    let others = |world: &World, service: &str| {
        let services = world.services_of("waypoint");
        let service = services.iter().find(|s| s.name == service).unwrap();
        service
            .others
            .iter()
            .map(|set| set.policies.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(others(&world, "web-v2"), sets(&["p"]));
    assert!(others(&world, "web").is_empty());
    let backends = world.backends_of("waypoint");
    assert!(
        backends["shop/web-v2.shop.svc.cluster.local"]
            .authorization
            .is_empty()
    );
    // Where the route is attached as well, it says itself what the policy is for.
    let mut both = split();
    both["parentRefs"] = json!([parent("web")[0], parent("web-v2")[0]]);
    world.route("shop", "split", both);
    world.settle();
    assert!(others(&world, "web-v2").is_empty());
}

#[test]
fn a_policy_of_a_consumers_route_is_sent_to_the_services_waypoint_and_closes_nothing_there() {
    let mut world = World::protected();
    world.namespace("client", Some("ambient"));
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "namespace": "shop", "name": "web"}],
        "rules": [{"backendRefs": [{"namespace": "shop", "name": "web", "port": 80}]}]});
    world.route("client", "own", route);
    world.delete_policy("orders");
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("waypoint"));
    world.set("client", "p", rules_for("HTTPRoute", "own", None));
    world.settle();
    let rule = &world.routes_of("waypoint")["HTTPRoute/client/own"].rules[0];
    assert_eq!(
        rule.policies.as_ref().unwrap().authorization[0].policies,
        ["client/p"]
    );
    assert!(world.sent("waypoint").policies.contains_key("client/p"));
    assert!(world.admits("a", 8080, Some(CLIENT_ID)));
    assert!(world.index.waypoints_in("client").is_empty());
    let summary = world.index.policy_summary(&Key::new("client", "p")).unwrap();
    let found = &summary.targets[0];
    assert!(found.programmed.status);
    assert_eq!(found.waypoint, Some(Key::new("shop", "waypoint")));
    assert_eq!(
        found.programmed.message,
        "waypoint shop/waypoint enforces it at Service shop/web; the pods of Service shop/web also accept connections \
         that do not pass it, since they are another namespace's"
    );
    world.index.set_policy(&Key::new("client", "p"), None);
    world.flush();
    let rule = &world.routes_of("waypoint")["HTTPRoute/client/own"].rules[0];
    assert!(rule.policies.is_none());
}

#[test]
fn a_policy_of_a_route_that_is_in_force_nowhere_says_so() {
    let mut world = World::canary();
    world.policy("p", rules_for("HTTPRoute", "split", None));
    world.route("shop", "split", with(split(), "/parentRefs", parent("web")));
    assert_eq!(world.reasons("p"), ("Accepted", "WaypointNotReady"));
    let message = world.target("p").programmed.message;
    assert!(message.starts_with("not yet at Service web: "), "{message}");
    world.waypoint("shop", "waypoint", true);
    let gateway = json!([{"name": "edge"}]);
    for (parents, reason, said) in [
        (
            gateway,
            "RouteNotAttached",
            "HTTPRoute split has no Service in spec.parentRefs, so no request that a waypoint receives can match it",
        ),
        (
            parent("missing"),
            "RouteNotAttached",
            "HTTPRoute split is in force at no Service: Service missing (there is no Service missing in namespace shop)",
        ),
    ] {
        world.route("shop", "split", with(split(), "/parentRefs", parents));
        assert_eq!(world.reasons("p"), ("Accepted", reason));
        let found = world.target("p");
        assert!(
            found.programmed.message.starts_with(said),
            "{}",
            found.programmed.message
        );
        assert_eq!(found.waypoint, None);
    }
    world.route("shop", "split", with(split(), "/parentRefs", parent("web")));
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("none"));
    world.settle();
    assert_eq!(world.reasons("p"), ("Accepted", "OptedOut"));
}
