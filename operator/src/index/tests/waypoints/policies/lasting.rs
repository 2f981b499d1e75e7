//! What stays in force of a policy whose new version, or whose target, is not there.

use super::*;

#[test]
fn the_last_good_version_stays_in_force() {
    let mut world = World::protected();
    let good = policy_of(&world, "orders");
    let bad = generation("orders", 2, rules(json!([{"name": "r", "action": "Deny"}])));
    world.policy_object(bad.clone());
    assert_eq!(policy_of(&world, "orders"), good);
    assert_eq!(world.services_of("waypoint")[0].authorization, ["shop/orders"]);
    assert!(world.bound("web").is_some());
    let target = world.target("orders");
    assert!(!target.accepted.status && !target.programmed.status);
    assert!(
        target.accepted.message.contains("generation 0 stays in force"),
        "{}",
        target.accepted.message
    );
    assert_eq!(
        (
            target.waypoint.map(|key| key.name).as_deref(),
            target.guarded_pods
        ),
        (Some("waypoint"), Some(1))
    );
    // Even where the bad one has other targets.
    let elsewhere = json!([{"kind": "Service", "name": "nobody"}]);
    world.policy_object(generation(
        "orders",
        3,
        with(bad["spec"].clone(), "/targetRefs", elsewhere),
    ));
    assert_eq!(policy_of(&world, "orders"), good);
    assert!(world.bound("web").is_some());
    // A good one takes its place.
    world.policy_object(generation("orders", 4, rules(json!([rule("a", "Deny")]))));
    world.settle();
    assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
    assert_eq!(policy_of(&world, "orders").authorization[0].name, "a");
    // And one that is deleted leaves nothing behind.
    world.delete_policy("orders");
    world.policy_object(bad);
    assert_ne!(policy_of(&world, "orders"), good);
}

#[test]
fn a_misspelt_target_releases_nothing() {
    let mut world = World::protected();
    let good = policy_of(&world, "orders");
    let targets = |names: &[&str]| -> Value {
        let refs = names.iter().map(|n| json!({"kind": "Service", "name": n}));
        refs.collect()
    };
    let version = |number: i64, refs: Value| {
        let spec = with(rules(json!([rule("later", "Deny")])), "/targetRefs", refs);
        generation("orders", number, spec)
    };
    for refs in [
        targets(&["wbe"]),
        targets(&["waypoint"]),
        json!([{"kind": "Namespace", "name": "bank"}]),
    ] {
        world.policy_object(version(2, refs.clone()));
        world.settle();
        assert_eq!(policy_of(&world, "orders"), good, "{refs}");
        assert_eq!(world.services_of("waypoint")[0].authorization, ["shop/orders"]);
        assert!(
            world.workload("a").unwrap().authorization_policies == ["shop/ambit-guard-web"],
            "{refs}"
        );
        let accepted = world.target("orders").accepted;
        assert!(!accepted.status);
        assert!(
            accepted
                .message
                .ends_with("; generation 0 stays in force until then"),
            "{}",
            accepted.message
        );
    }
    // Once its target is there, the version holds, and what it is not for is free.
    world.policy_object(version(3, targets(&["api"])));
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    world.settle();
    assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
    assert_eq!(policy_of(&world, "orders").authorization[0].name, "later");
    assert_eq!((world.bound("web"), world.bound("api").is_some()), (None, true));
    // One of two: its other target is served, and none is released.
    world.policy_object(version(4, targets(&["api", "web"])));
    world.policy_object(version(5, targets(&["wbe", "api"])));
    world.settle();
    let accepted = world.target("orders").accepted;
    assert!(
        accepted
            .message
            .ends_with("; until then the policy stays in force for Service web, too"),
        "{}",
        accepted.message
    );
    assert!(world.bound("web").is_some() && world.bound("api").is_some());
    world.web_service("shop", "wbe", "10.96.0.3", json!({}));
    world.settle();
    assert_eq!(world.bound("web"), None);
    // Also while the Services before are away.
    world.delete_service("api");
    world.delete_service("wbe");
    world.policy_object(version(6, targets(&["nobody"])));
    let accepted = world.target("orders").accepted;
    assert!(
        accepted
            .message
            .ends_with("; generation 5 stays in force until then"),
        "{}",
        accepted.message
    );
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    assert!(world.bound("api").is_some());
}

/// With a policy that was for `web` and `api`, and is for `names` now, one of which is misspelt.
fn kept(names: &[&str]) -> (World, Value) {
    let mut world = World::protected();
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    let version = |number: i64, names: &[&str]| {
        let refs = names.iter().map(|n| json!({"kind": "Service", "name": n}));
        generation("orders", number, with(orders(), "/targetRefs", refs.collect()))
    };
    world.policy_object(version(1, &["web", "api"]));
    let later = version(2, names);
    world.policy_object(later.clone());
    world.settle();
    (world, later)
}

#[test]
fn a_target_is_kept_while_its_service_is_away() {
    let in_force = |world: &World| {
        let summary = world.index.policy_summary(&Key::new("shop", "orders"));
        summary.unwrap().in_force
    };
    for (names, message) in [
        (vec!["wbe", "api"], "has no Service \"wbe\""),
        (vec!["wbe"], "generation 1 stays in force until then"),
    ] {
        let (mut world, later) = kept(&names);
        let written = in_force(&world);
        assert!(written.is_some());
        // `kubectl replace --force`: all go, and come one after the other.
        world.delete_service("web");
        world.delete_service("api");
        world.web_service("shop", "api", "10.96.0.2", json!({}));
        assert_eq!(in_force(&world), written, "{names:?}");
        let accepted = world.target("orders").accepted;
        assert!(accepted.message.ends_with(message), "{}", accepted.message);
        // One that begins anew while it is away.
        let mut other = World::enrolled();
        let mut read = later.clone();
        read["status"] = json!({"inForce": written});
        other.policy_object(read);
        other.web_service("shop", "api", "10.96.0.2", json!({}));
        other.pod(&marked(pod("a", "10.0.0.1")));
        other.endpoints("shop", "web", &["a"]);
        other.waypoint("shop", "waypoint", true);
        for mut world in [world, other] {
            world.settle();
            assert_eq!(in_force(&world), written, "{names:?}");
            world.web_service("shop", "web", "10.96.0.1", json!({}));
            world.settle();
            assert!(world.bound("web").is_some(), "{names:?}");
            assert_eq!(
                world.workload("a").unwrap().authorization_policies,
                ["shop/ambit-guard-web"]
            );
        }
    }
}

#[test]
fn a_kept_target_goes_when_it_is_left_out_of_a_good_version_or_with_the_policy() {
    let ends: [fn(&mut World, Value); 3] = [
        |world, mut later| {
            later["metadata"]["generation"] = json!(3);
            later["spec"]["targetRefs"] = json!([{"kind": "Service", "name": "api"}]);
            world.policy_object(later);
        },
        |world, _| world.web_service("shop", "wbe", "10.96.0.3", json!({})),
        |world, later| {
            world.delete_policy("orders");
            world.policy_object(later);
        },
    ];
    for (n, end) in ends.into_iter().enumerate() {
        for away in [false, true] {
            let (mut world, later) = kept(&["wbe", "api"]);
            if away {
                world.delete_service("web");
            }
            end(&mut world, later);
            world.settle();
            let summary = world.index.policy_summary(&Key::new("shop", "orders"));
            assert_eq!(summary.unwrap().in_force, None, "{n} {away}");
            if away {
                world.web_service("shop", "web", "10.96.0.1", json!({}));
                world.settle();
            }
            assert_eq!(world.bound("web"), None, "{n} {away}");
            assert!(world.bound("api").is_some(), "{n} {away}");
        }
    }
}

#[test]
fn what_is_written_down_takes_the_place_of_what_stood_in() {
    let (before, _) = kept(&["wbe"]);
    let key = Key::new("shop", "orders");
    let written = before.index.policy_summary(&key).unwrap().in_force;
    assert!(written.is_some());
    for spec in [
        rules(json!([rule("a", "Allow"), rule("b", "Deny")])),
        with(
            orders(),
            "/targetRefs",
            json!([{"kind": "Service", "name": "wbe"}]),
        ),
    ] {
        // An operator that begins before the one that leads has written it down.
        let mut world = World::shop();
        world.waypoint("shop", "waypoint", true);
        let unreadable = rules(json!([{"name": "r", "action": "Deny"}]));
        world.policy_object(generation("orders", 2, unreadable));
        world.settle();
        assert_ne!(policy_of(&world, "orders"), policy_of(&before, "orders"));
        let mut read = generation("orders", 3, spec);
        read["status"] = json!({"inForce": written});
        world.policy_object(read);
        world.settle();
        assert_eq!(policy_of(&world, "orders"), policy_of(&before, "orders"));
        assert_eq!(world.index.policy_summary(&key).unwrap().in_force, written);
    }
}

#[test]
fn what_held_holds_for_an_operator_that_begins_anew() {
    let services = |names: &[&str]| -> Value {
        let refs = names.iter().map(|n| json!({"kind": "Service", "name": n}));
        refs.collect()
    };
    let deny = || rules(json!([rule("later", "Deny")]));
    for (later, generation_in_force, rule_in_force) in [
        (
            rules(json!([rule("a", "Allow"), rule("b", "Deny")])),
            1,
            "readers",
        ),
        (with(deny(), "/targetRefs", services(&["wbe"])), 1, "readers"),
        (with(deny(), "/targetRefs", services(&["api", "wbe"])), 2, "later"),
    ] {
        let mut before = World::protected();
        before.web_service("shop", "api", "10.96.0.2", json!({}));
        before.policy_object(generation("orders", 1, orders()));
        let key = Key::new("shop", "orders");
        assert_eq!(before.index.policy_summary(&key).unwrap().in_force, None);
        let mut changed = generation("orders", 2, later);
        before.policy_object(changed.clone());
        before.settle();
        let held = policy_of(&before, "orders");
        assert_eq!(held.authorization[0].name, rule_in_force);
        let written = before.index.policy_summary(&key).unwrap().in_force.unwrap();
        assert_eq!(written.generation, generation_in_force);
        changed["status"] = json!({"inForce": written});
        changed["metadata"]["namespace"] = json!("shop");

        // Everything is read before anything is made of it, in any order.
        let mut after = World::enrolled();
        let policy: WaypointPolicy = object(changed.clone());
        after.index.set_policy(&key, Some(PolicyRecord::of(&policy)));
        after.web_service("shop", "web", "10.96.0.1", json!({}));
        after.web_service("shop", "api", "10.96.0.2", json!({}));
        after.pod(&marked(pod("a", "10.0.0.1")));
        after.endpoints("shop", "web", &["a"]);
        after.waypoint("shop", "waypoint", true);
        after.settle();
        assert_eq!(policy_of(&after, "orders"), held);
        assert!(after.bound("web").is_some());
        let summary = after.index.policy_summary(&key).unwrap();
        assert_eq!(summary, before.index.policy_summary(&key).unwrap());

        // What is put right is in force by itself, and so says the status.
        changed["spec"] = deny();
        changed["metadata"]["generation"] = json!(3);
        after.policy_object(changed);
        after.settle();
        assert_eq!(policy_of(&after, "orders").authorization[0].name, "later");
        assert_eq!(after.index.policy_summary(&key).unwrap().in_force, None);
    }
}

#[test]
fn one_that_never_could_be_read_closes_its_targets() {
    use ambit_policy::http::{Attributes, Headers, HttpRequest, evaluate};
    struct NoHeaders;
    impl Headers for NoHeaders {
        fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            false
        }
    }
    let allowed = |world: &World| {
        let policy =
            ambit_wire::waypoint_policy::WaypointPolicy::try_from(policy_of(world, "orders")).unwrap();
        let request = HttpRequest {
            principal: Some("cluster.local/ns/shop/sa/cart"),
            attributes: Some(Attributes {
                method: "GET",
                path: "/",
                host: "web",
                headers: &NoHeaders,
            }),
        };
        evaluate(&policy.rules, &request).is_allowed()
    };
    // As an operator that has just been started sees it.
    let mut world = World::shop();
    world.waypoint("shop", "waypoint", true);
    world.policy(
        "orders",
        rules(json!([{"name": "r", "action": "Deny", "methods": ["get"]}])),
    );
    world.settle();
    assert!(world.bound("web").is_some());
    assert!(!allowed(&world));
    assert!(
        world
            .workload("a")
            .unwrap()
            .authorization_policies
            .contains(&"shop/ambit-guard-web".to_owned())
    );
    // Rules that can be read hold, whatever is wrong with the rest.
    let mut spec = with(orders(), "/timeouts", json!({"request": "soon"}));
    world.policy("orders", spec.clone());
    assert!(allowed(&world));
    assert!(policy_of(&world, "orders").timeout.is_none());
    assert_eq!(world.reasons("orders").0, "Invalid");
    // Rules that only report close nothing.
    spec["authorization"][0]["mode"] = json!("Audit");
    world.policy("orders", spec);
    assert!(allowed(&world));
}
