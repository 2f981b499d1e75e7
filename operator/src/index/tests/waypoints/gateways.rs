//! Waypoints that Gateways declare.

use super::scope::replica;
use super::*;
use crate::gateway::CONTROLLER;

impl World {
    /// A Gateway, of `shop` if `changes` say nothing else; fields are set by pointer.
    pub(super) fn gateway(&mut self, name: &str, changes: &[(&str, Value)]) {
        let mut value = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("gateway-{name}"), "generation": 1, "labels": {},
            },
            "spec": {
                "gatewayClassName": "ambit-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
                "infrastructure": {},
            },
        });
        for (pointer, change) in changes {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            value.pointer_mut(parent).unwrap()[field] = change.clone();
        }
        let key = Key::new(value["metadata"]["namespace"].as_str().unwrap(), name);
        self.index
            .set_gateway(&key, Some(GatewayRecord::of(&object(value))));
        self.flush();
    }

    fn delete_gateway(&mut self, name: &str) {
        self.index.set_gateway(&Key::new("shop", name), None);
        self.flush();
    }

    fn class(&mut self, name: &str, controller: Option<&str>) {
        self.index.set_gateway_class(name, controller.map(str::to_owned));
        self.flush();
    }

    fn gateway_summary(&self, name: &str) -> Option<GatewaySummary> {
        let all = self.index.gateway_summaries("shop");
        all.into_iter().find(|gateway| gateway.name == name)
    }

    /// Reasons of Accepted and Programmed, and whether each is true.
    fn gateway_reasons(&self, name: &str) -> Vec<(bool, &'static str)> {
        let summary = self.gateway_summary(name).unwrap();
        summary.conditions.iter().map(|c| (c.status, c.reason)).collect()
    }

    /// Whether a waypoint is desired, and because of a Gateway.
    fn declared(&self, name: &str) -> Option<bool> {
        let waypoint = self.summary(name).filter(|w| w.desired)?;
        Some(waypoint.declaration.is_some())
    }
}

/// A policy for what uses waypoint `name`.
pub(super) fn at_gateway(name: &str) -> Value {
    let target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name});
    with(orders(), "/targetRefs", json!([target]))
}

const VALID: (bool, &str) = (true, "Accepted");

#[test]
fn gateway_declares_a_waypoint_before_anything_uses_it() {
    let mut world = World::shop();
    world.gateway(
        "waypoint",
        &[(
            "/spec/infrastructure",
            json!({"labels": {"team": "a"}, "annotations": {"note": "b"}}),
        )],
    );
    let declaration = world.summary("waypoint").unwrap().declaration.unwrap();
    assert_eq!(declaration.uid, "gateway-waypoint");
    assert_eq!((declaration.labels.len(), declaration.annotations.len()), (1, 1));
    assert_eq!(world.declared("waypoint"), Some(true));
    assert_eq!(world.gateway_reasons("waypoint"), [VALID, (false, "Pending")]);
    assert_eq!(world.bound("web"), None);

    world.waypoint("shop", "waypoint", true);
    world.pod(&replica("shop", "w1", true));
    assert_eq!(world.gateway_reasons("waypoint"), [VALID, (true, "Programmed")]);
    let summary = world.gateway_summary("waypoint").unwrap();
    assert_eq!(summary.addresses.len(), 1);
    assert_eq!(
        summary.listeners[0].kinds,
        ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"]
    );
    assert!(
        summary.listeners[0]
            .conditions
            .iter()
            .all(|c| c.status == (c.kind != "Conflicted"))
    );

    world.web_service("shop", "web", "10.96.0.1", use_waypoint("waypoint"));
    world.settle();
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    world.pod(&replica("shop", "w1", false));
    assert_eq!(world.gateway_reasons("waypoint"), [VALID, (false, "Pending")]);
    // As ever, callers get nothing past it.
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
}

#[test]
fn routes_of_bound_services_are_counted_as_attached() {
    let mut world = World::canary();
    world.route(
        "shop",
        "r",
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": []}),
    );
    world.gateway("waypoint", &[]);
    assert_eq!(
        world.gateway_summary("waypoint").unwrap().listeners[0].attached,
        1
    );
}

#[test]
fn gateways_of_other_controllers_are_left_alone() {
    let mut world = World::shop();
    world.gateway("i", &[("/spec/gatewayClassName", json!("istio-waypoint"))]);
    world.gateway("own", &[("/spec/gatewayClassName", json!("mine"))]);
    world.gateway("edge", &[("/spec/gatewayClassName", json!("nginx"))]);
    assert_eq!((world.declared("i"), world.declared("own")), (Some(true), None));
    // Istio comes.
    world.class("istio-waypoint", Some("istio.io/mesh-controller"));
    assert_eq!(world.declared("i"), None);
    assert_eq!(world.gateway_summary("i"), None);
    world.class("istio-waypoint", None);
    assert_eq!(world.declared("i"), Some(true));
    // A class may have any name.
    world.class("mine", Some(CONTROLLER));
    assert_eq!(world.declared("own"), Some(true));
    assert_eq!(world.gateway_summary("edge"), None);
    world.policy("p", at_gateway("edge"));
    assert_eq!(world.reasons("p").0, "Invalid");
}

#[test]
fn what_a_waypoint_cannot_be_is_refused_with_the_reasons_of_the_api() {
    let mut world = World::shop();
    let listener =
        |name: &str, port: u16, protocol: &str| json!({"name": name, "port": port, "protocol": protocol});
    let mesh = listener("mesh", 15008, "HBONE");
    let refused = |reason| vec![(false, reason), (false, "Invalid")];
    for (pointer, change, reason) in [
        (
            "/spec/infrastructure/parametersRef",
            json!({"kind": "ConfigMap", "name": "c"}),
            "InvalidParameters",
        ),
        (
            "/spec/addresses",
            json!([{"value": "10.0.0.1"}]),
            "UnsupportedAddress",
        ),
        (
            "/spec/listeners",
            json!([listener("http", 80, "HTTP")]),
            "ListenersNotValid",
        ),
        ("/spec/listeners", json!([]), "ListenersNotValid"),
    ] {
        world.gateway("waypoint", &[(pointer, change)]);
        assert_eq!(world.gateway_reasons("waypoint"), refused(reason), "{pointer}");
        assert_eq!(world.declared("waypoint"), None);
    }
    let listeners = json!([
        listener("http", 80, "HTTP"),
        listener("other", 15009, "HBONE"),
        mesh,
        listener("again", 15008, "HBONE"),
    ]);
    world.gateway("waypoint", &[("/spec/listeners", listeners)]);
    assert_eq!(world.declared("waypoint"), Some(true));
    assert_eq!(world.gateway_reasons("waypoint")[0], (true, "ListenersNotValid"));
    let summary = world.gateway_summary("waypoint").unwrap();
    let reasons: Vec<_> = summary.listeners.iter().map(|l| l.conditions[0].reason).collect();
    assert_eq!(
        reasons,
        [
            "UnsupportedProtocol",
            "PortUnavailable",
            "Accepted",
            "HostnameConflict"
        ]
    );
    let conflicts: Vec<_> = summary.listeners.iter().map(|l| l.conditions[3].status).collect();
    assert_eq!(conflicts, [false, false, false, true]);

    let kinds = json!([{"kind": "UDPRoute"}, {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}]);
    world.gateway(
        "waypoint",
        &[("/spec/listeners/0/allowedRoutes", json!({"kinds": kinds}))],
    );
    let listener = world.gateway_summary("waypoint").unwrap().listeners.remove(0);
    assert_eq!(listener.kinds, ["GRPCRoute"]);
    assert_eq!(
        (listener.conditions[2].status, listener.conditions[2].reason),
        (false, "InvalidRouteKinds")
    );
}

#[test]
fn label_and_listener_of_a_gateway_say_what_may_use_its_waypoint() {
    let mut world = World::shop();
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("g"));
    world.waypoint("shop", "g", true);
    world.gateway("g", &[]);
    world.settle();
    assert!(world.bound("web").is_some());
    let of = |value: &str| json!({"istio.io/waypoint-for": value});
    for (value, bound) in [
        ("workload", false),
        ("all", true),
        ("none", false),
        ("service", true),
    ] {
        world.gateway("g", &[("/metadata/labels", of(value))]);
        world.settle();
        assert_eq!(world.bound("web").is_some(), bound, "{value}");
        assert_eq!(world.summary("g").unwrap().waypoint_for, value);
        assert_eq!(world.declared("g"), Some(true), "it stands, whatever it is for");
    }
    // The namespace's label is for waypoints whose Gateway has none.
    world.namespace_labels("shop", of("none"));
    world.settle();
    assert!(world.bound("web").is_some());
    world.gateway("g", &[]);
    world.settle();
    assert!(world.bound("web").is_none());
    world.namespace_labels("shop", json!({}));

    let selector = json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"env": "prod"}}}});
    world.gateway("g", &[("/spec/listeners/0/allowedRoutes", selector)]);
    world.settle();
    assert!(world.bound("web").is_none());
    world.policy("orders", orders());
    let programmed = world.target("orders").programmed;
    assert_eq!(programmed.reason.as_str(), "OptedOut");
    assert!(
        programmed.message.contains("allowedRoutes"),
        "{}",
        programmed.message
    );
    world.namespace_labels("shop", json!({"env": "prod"}));
    world.settle();
    assert!(world.bound("web").is_some());
}

#[test]
fn pods_use_a_waypoint_whose_gateway_is_for_them() {
    let mut world = World::shop();
    world.waypoint("shop", "g", true);
    world.gateway(
        "g",
        &[("/metadata/labels", json!({"istio.io/waypoint-for": "workload"}))],
    );
    world.pod(&with(
        marked(pod("a", "10.0.0.1")),
        "/metadata/labels",
        use_waypoint("g"),
    ));
    world.policy("p", at_gateway("g"));
    world.settle();
    let workload = world.workload("a").unwrap();
    assert!(workload.waypoint.is_some());
    // Its rules hold there, and nobody gets past the waypoint.
    let settings = world.sent("g").settings.values().next().unwrap();
    let settings = wire::Settings::decode(settings.as_slice()).unwrap();
    assert_eq!(settings.workload_authorization, ["shop/p"]);
    assert!(
        workload
            .authorization_policies
            .contains(&"shop/ambit-guard:g".to_owned())
    );
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));
}

#[test]
fn without_its_gateway_a_waypoint_goes_on_for_those_that_ask_for_it() {
    let mut world = World::protected();
    world.gateway("waypoint", &[]);
    assert_eq!(world.declared("waypoint"), Some(true));
    assert!(world.bound("web").is_some());
    // It was made for a policy, and again is.
    world.delete_gateway("waypoint");
    world.settle();
    assert_eq!(world.declared("waypoint"), Some(false));
    assert!(world.bound("web").is_some());
    // On its way out it counts as gone.
    world.gateway("other", &[]);
    assert_eq!(world.declared("other"), Some(true));
    world.gateway(
        "other",
        &[("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))],
    );
    assert_eq!(world.declared("other"), None);
}

#[test]
fn policy_for_a_gateway_applies_to_all_that_use_its_waypoint() {
    let mut world = World::shop();
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("g"));
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("g"));
    world.web_service("shop", "else", "10.96.0.3", use_waypoint("other"));
    world.policy("p", at_gateway("g"));
    let found = world.target("p");
    assert_eq!(world.reasons("p").0, "TargetNotFound");
    assert!(
        found
            .accepted
            .message
            .contains("namespace shop has no Gateway \"g\""),
        "{}",
        found.accepted.message
    );

    world.gateway("g", &[]);
    assert_eq!(world.reasons("p"), ("Accepted", "WaypointNotReady"));
    world.waypoint("shop", "g", true);
    world.waypoint("shop", "other", true);
    world.settle();
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));
    assert_eq!(world.target("p").waypoint, Some(Key::new("shop", "g")));
    assert_eq!(world.target("p").guarded_pods, Some(1));
    let applying = |world: &World, waypoint: &str| -> Vec<(String, Vec<String>)> {
        let services = world.services_of(waypoint).into_iter();
        services.map(|s| (s.name, s.authorization)).collect()
    };
    let rules = vec!["shop/p".to_owned()];
    let expected = [
        ("api".to_owned(), rules.clone()),
        ("web".to_owned(), rules.clone()),
    ];
    assert_eq!(applying(&world, "g"), expected);
    assert_eq!(applying(&world, "other"), [("else".to_owned(), Vec::new())]);

    // Without the Gateway the labels still ask for the waypoint: nothing that was closed opens.
    world.delete_gateway("g");
    world.settle();
    assert_eq!(applying(&world, "g"), expected);
    assert_eq!(world.reasons("p").0, "TargetNotFound");
    let message = world.target("p").accepted.message;
    assert!(
        message.contains("in force for Services that use a waypoint of this name: api, web"),
        "{message}"
    );
}

#[test]
fn the_narrower_target_goes_first() {
    let mut world = World::shop();
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("g"));
    world.gateway("g", &[]);
    world.waypoint("shop", "g", true);
    let policy = |target: Value| json!({"targetRefs": target, "timeouts": {"request": "1s"}});
    let timeout = |world: &World| world.services_of("g").remove(0).timeout;
    world.policy("a-namespace", policy(everywhere()["targetRefs"].clone()));
    world.settle();
    assert_eq!(timeout(&world), "shop/a-namespace");
    world.policy("b-gateway", policy(at_gateway("g")["targetRefs"].clone()));
    assert_eq!(timeout(&world), "shop/b-gateway");
    world.policy("c-service", policy(orders()["targetRefs"].clone()));
    assert_eq!(timeout(&world), "shop/c-service");
}

/// The waypoint of the pod's address has none of the rules, and would get past the guard.
#[test]
fn rules_of_a_gateway_close_pods_that_another_waypoint_is_for() {
    let mut world = World::shop();
    world.gateway(
        "g",
        &[("/metadata/labels", json!({"istio.io/waypoint-for": "all"}))],
    );
    world.namespace_labels(
        "shop",
        json!({"istio.io/waypoint-for": "all", "istio.io/use-waypoint": "other"}),
    );
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("g"));
    world.waypoint("shop", "g", true);
    world.waypoint("shop", "other", true);
    world.settle();
    let through = |world: &World| world.workload("a").unwrap().waypoint.as_ref().map(host);
    assert_eq!(
        through(&world).as_deref(),
        Some("shop/other.shop.svc.cluster.local")
    );
    world.policy("p", at_gateway("g"));
    world.settle();
    assert_eq!(through(&world), None);
    // At this one they hold.
    world.namespace_labels(
        "shop",
        json!({"istio.io/waypoint-for": "all", "istio.io/use-waypoint": "g"}),
    );
    world.settle();
    assert_eq!(through(&world).as_deref(), Some("shop/g.shop.svc.cluster.local"));
}
