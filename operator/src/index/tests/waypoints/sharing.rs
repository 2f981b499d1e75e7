//! Rules hold for the pods of their Service, through whichever Service these are reached.

use super::*;

impl World {
    /// `protected`, with a second waypoint.
    fn with_edge() -> Self {
        let mut world = Self::protected();
        world.waypoint("shop", "edge", true);
        world
    }

    /// The other Services' rules that a waypoint holds at this Service, if it serves it.
    fn others(&self, waypoint: &str, service: &str) -> Option<Vec<Vec<String>>> {
        let all = self.services_of(waypoint);
        let service = all.into_iter().find(|s| s.name == service)?;
        let sets: Vec<Vec<String>> = service.others.into_iter().map(|set| set.policies).collect();
        assert_eq!(
            service.requires.contains(&"rule-sets".to_owned()),
            !sets.is_empty(),
            "a waypoint that does not know of them is closed"
        );
        let sent = self.sent(waypoint);
        assert!(sets.iter().flatten().all(|p| sent.policies.contains_key(p)));
        Some(sets)
    }
}

fn sets(names: &[&str]) -> Option<Vec<Vec<String>>> {
    let one = |name: &&str| vec![format!("shop/{name}")];
    Some(names.iter().map(one).collect())
}

/// A Service in front of pods with this label, on these ports.
fn second(labels: Value, selector: Value, target: Value) -> Value {
    json!({
        "metadata": {"name": "second", "namespace": "shop", "labels": labels},
        "spec": {
            "clusterIP": "10.96.0.2", "selector": selector,
            "ports": [{"name": "http", "port": 80, "targetPort": target, "appProtocol": "http"}],
        },
    })
}

#[test]
fn second_service_is_no_way_round_rules() {
    for waypoint in ["edge", "waypoint"] {
        let mut world = World::with_edge();
        let app = json!({"app": "a"});
        world.service(second(use_waypoint(waypoint), app.clone(), json!(8080)));
        assert_eq!(
            world.others(waypoint, "second"),
            sets(&["orders"]),
            "before it lists the pod"
        );
        world.endpoints("shop", "second", &["a"]);
        world.settle();
        assert!(world.bound("second").is_some());
        assert_eq!(world.others(waypoint, "second"), sets(&["orders"]));
        // The one with the rules needs no more.
        assert_eq!(world.others("waypoint", "web"), sets(&[]));
        let message = world.target("orders").programmed.message;
        assert!(
            message
                .ends_with("it also applies to Service second, since the same pods are reached through it"),
            "{message}"
        );
        // Other ports and other pods are nothing of the rules.
        for (selector, target) in [(json!({"app": "b"}), 8080), (app, 9090)] {
            world.service(second(use_waypoint(waypoint), selector, json!(target)));
            world.slice(json!({
                "metadata": {"name": "second-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "second"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 9090}],
                "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}],
            }));
            assert_eq!(world.others(waypoint, "second"), sets(&[]));
        }
        // A name that the pod does not declare may be any port, until the pod is listed.
        world.service(second(use_waypoint(waypoint), json!({"app": "a"}), json!("http")));
        assert_eq!(world.others(waypoint, "second"), sets(&[]));
        world.index.set_slice(&Key::new("shop", "second-1"), None);
        world.flush();
        assert_eq!(world.others(waypoint, "second"), sets(&["orders"]));
    }
}

#[test]
fn slices_kept_by_hand_are_no_way_round_rules() {
    let mut world = World::with_edge();
    world.service(second(use_waypoint("waypoint"), json!({}), json!(8080)));
    world.slice(json!({
        "metadata": {"name": "by-hand", "namespace": "shop", "labels": {"kubernetes.io/service-name": "second"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }));
    assert_eq!(world.others("waypoint", "second"), sets(&["orders"]));
}

#[test]
fn each_of_two_sets_of_rules_holds() {
    let mut world = World::with_edge();
    let of_second = |policy: Value| with(policy, "/targetRefs/0/name", json!("second"));
    world.service(second(use_waypoint("edge"), json!({"app": "a"}), json!(8080)));
    world.policy("public", of_second(orders()));
    world.settle();
    assert_eq!(world.others("edge", "second"), sets(&["orders"]));
    assert_eq!(world.others("waypoint", "web"), sets(&["public"]));
    let message = world.target("public").programmed.message;
    assert!(
        message.contains(
            "requests also have to pass shop/orders, since another Service of the same pods has it"
        ),
        "{message}"
    );
    // Rules that decide nothing hold nowhere else.
    let audit = json!([{"name": "r", "action": "Deny", "mode": "Audit", "methods": ["GET"]}]);
    world.policy("public", of_second(with(orders(), "/authorization", audit)));
    assert_eq!(world.others("waypoint", "web"), sets(&[]));
    // A policy that one has beside all of the other's makes its rules more particular.
    world.policy("public", of_second(orders()));
    world.policy("orders", everywhere());
    assert_eq!(world.others("edge", "second"), sets(&[]));
    let own = vec![vec!["shop/orders".to_owned(), "shop/public".to_owned()]];
    assert_eq!(world.others("waypoint", "web"), Some(own));
}

#[test]
fn another_way_to_the_same_pods_is_told() {
    let mut world = World::protected();
    let told = |world: &World| {
        world
            .target("orders")
            .programmed
            .message
            .contains("it also applies to Service canary")
    };
    world.web_service("shop", "canary", "10.96.0.2", json!({}));
    world.endpoints("shop", "canary", &["a"]);
    world.settle();
    assert!(
        !told(&world),
        "its callers are not the waypoint: the pod refuses them"
    );
    world.web_service("shop", "canary", "10.96.0.2", use_waypoint("waypoint"));
    world.settle();
    assert!(told(&world), "{}", world.target("orders").programmed.message);
    let both = json!([{"kind": "Service", "name": "web"}, {"kind": "Service", "name": "canary"}]);
    world.policy("orders", with(orders(), "/targetRefs", both));
    assert!(!told(&world));
}
