use super::*;

/// A rule that matches a path in `action`'s way.
fn rule(name: &str, action: &str) -> Value {
    json!({"name": name, "action": action, "paths": [{"prefix": "/admin"}], "methods": ["GET", "PUT"]})
}

fn rules(rules: Value) -> Value {
    with(orders(), "/authorization", rules)
}

fn policy_of(world: &World, name: &str) -> wire::Policy {
    let bytes = &world.sent("waypoint").policies[&format!("shop/{name}")];
    wire::Policy::decode(bytes.as_slice()).unwrap()
}

fn generation(name: &str, generation: i64, spec: Value) -> Value {
    json!({"metadata": {"name": name, "generation": generation}, "spec": spec})
}

#[test]
fn a_whole_policy_on_the_wire() {
    let mut world = World::protected();
    world.policy("orders", json!({
        "targetRefs": [{"kind": "Service", "name": "web"}],
        "authorization": [{
            "name": "r", "action": "Deny", "mode": "Audit", "methods": ["GET"],
            "from": [{"principals": ["cluster.local/ns/shop/*"], "namespaces": ["*"]}],
            "paths": [{"exact": "/a"}, {"prefix": "/b"}], "hosts": ["*.shop", "web.shop"],
            "headers": [{"name": "X-Role", "values": ["admin", "*-admin"]}, {"name": "x-any"}],
        }],
        "timeouts": {"request": "1500ms", "backendRequest": "200ms"},
        "retry": {"attempts": 3, "codes": [502], "conditions": ["Reset"], "backoff": "10ms", "nonIdempotent": true},
    }));
    let policy = policy_of(&world, "orders");
    let understood = ambit_wire::waypoint_policy::WaypointPolicy::try_from(policy.clone()).unwrap();
    assert_eq!(&*understood.name, "shop/orders");
    let rule = &policy.authorization[0];
    assert!(rule.audit && rule.action() == security::Action::Deny);
    assert_eq!((rule.from.len(), rule.paths.len(), rule.hosts.len()), (1, 2, 2));
    assert_eq!(
        (rule.headers[0].name.as_str(), rule.headers[1].values.len()),
        ("x-role", 1)
    );
    assert_eq!(policy.timeout.unwrap().nanos, 500_000_000);
    let retry = understood.retry.unwrap();
    assert_eq!(
        (
            retry.attempts,
            retry.connect_failure,
            retry.reset,
            retry.non_idempotent
        ),
        (3, false, true, true)
    );
    assert_eq!(
        (retry.backoff_base.as_millis(), retry.backoff_max.as_millis()),
        (10, 100)
    );
}

#[test]
fn targets_that_are_none() {
    let mut world = World::protected();
    let target =
        |kind: &str, name: &str| with(orders(), "/targetRefs", json!([{"kind": kind, "name": name}]));
    for (kind, name, reason, message) in [
        (
            "Service",
            "nobody",
            "TargetNotFound",
            "spec.targetRefs[0]: there is no Service \"nobody\" in namespace shop",
        ),
        ("Namespace", "bank", "Invalid", "spec.targetRefs[0].name"),
        ("Service", "waypoint", "Invalid", "is a waypoint's own"),
    ] {
        world.policy("p", target(kind, name));
        let found = world.target("p");
        assert!(!found.accepted.status && !found.programmed.status);
        assert_eq!(world.reasons("p"), (reason, reason));
        assert!(
            found.accepted.message.contains(message),
            "{}",
            found.accepted.message
        );
        assert_eq!(found.waypoint, None);
    }
    // The Service comes.
    world.policy("p", target("Service", "nobody"));
    world.web_service("shop", "nobody", "10.96.0.5", json!({}));
    world.settle();
    assert_eq!(world.reasons("p"), ("Accepted", "Programmed"));
}

#[test]
fn one_target_is_not_the_other() {
    let mut world = World::protected();
    world.policy(
        "orders",
        with(
            orders(),
            "/targetRefs",
            json!([{"kind": "Service", "name": "web"}, {"kind": "Service", "name": "nobody"}]),
        ),
    );
    let summary = world.index.policy_summary(&Key::new("shop", "orders")).unwrap();
    let accepted: Vec<bool> = summary.targets.iter().map(|t| t.accepted.status).collect();
    assert_eq!(accepted, [true, false]);
    assert!(
        summary.targets[1]
            .accepted
            .message
            .starts_with("spec.targetRefs[1]: ")
    );
    assert!(world.bound("web").is_some());
}

#[test]
fn what_cannot_be_read_is_refused_with_its_field() {
    let long = json!({"attempts": 1, "codes": [500], "backoff": "2h", "conditions": []});
    for (spec, field) in [
        (
            rules(json!([{"name": "r", "action": "Deny"}])),
            "spec.authorization[0]: a rule needs",
        ),
        (
            rules(json!([rule("a", "Deny"), rule("a", "Deny")])),
            "spec.authorization[1].name",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "paths": [{"exact": "/a//b"}]}])),
            "spec.authorization[0].paths[0].exact",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "paths": [{"prefix": "/a/../b"}]}])),
            "spec.authorization[0].paths[0].prefix",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "paths": [{}]}])),
            "spec.authorization[0].paths[0]: a path needs",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "methods": ["get"]}])),
            "spec.authorization[0].methods[0]",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "from": [{}]}])),
            "spec.authorization[0].from[0]",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "from": [{"principals": ["spiffe://x"]}]}])),
            "spec.authorization[0].from[0].principals[0]",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "from": [{"namespaces": ["a*b"]}]}])),
            "spec.authorization[0].from[0].namespaces[0]",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "hosts": ["UP"]}])),
            "spec.authorization[0].hosts[0]",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "headers": [{"name": "a b"}]}])),
            "spec.authorization[0].headers[0].name",
        ),
        (
            rules(json!([{"name": "r", "action": "Deny", "headers": [{"name": "a", "values": ["**"]}]}])),
            "spec.authorization[0].headers[0].values[0]",
        ),
        (
            with(orders(), "/timeouts", json!({"request": "soon"})),
            "spec.timeouts.request",
        ),
        (
            with(orders(), "/timeouts", json!({"backendRequest": "2h"})),
            "spec.timeouts.backendRequest",
        ),
        (
            with(
                orders(),
                "/timeouts",
                json!({"request": "1s", "backendRequest": "2s"}),
            ),
            "spec.timeouts.backendRequest: it must not be longer",
        ),
        (
            with(orders(), "/timeout", json!("1s")),
            "spec.timeout: it is now spec.timeouts.request",
        ),
        (
            with(orders(), "/retry", json!({"statusCodes": [502]})),
            "spec.retry.statusCodes: it is now spec.retry.codes",
        ),
        (
            with(orders(), "/retry", json!({"perTryTimeout": "1s"})),
            "spec.retry.perTryTimeout: it is now spec.timeouts.backendRequest",
        ),
        (
            with(orders(), "/retry", json!({"conditions": []})),
            "spec.retry: it needs",
        ),
        (
            with(orders(), "/retry", json!({"attempts": 0})),
            "spec.retry.attempts",
        ),
        (
            with(orders(), "/retry", json!({"codes": [200]})),
            "spec.retry.codes[0]",
        ),
        (
            with(
                with(orders(), "/retry", json!({"conditions": ["ConnectFailure"]})),
                "/timeouts",
                json!({"backendRequest": "1s"}),
            ),
            "spec.timeouts.backendRequest: with retry it needs Reset",
        ),
        (with(orders(), "/retry", long), "spec.retry.backoff"),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "web"}]}),
            "spec: it needs one of",
        ),
    ] {
        let mut world = World::shop();
        world.policy("p", spec.clone());
        let accepted = world.target("p").accepted;
        assert_eq!(accepted.reason.as_str(), "Invalid", "{spec}");
        assert!(
            accepted.message.starts_with(field),
            "{}: {spec}",
            accepted.message
        );
    }
}

#[test]
fn rules_that_contradict_each_other() {
    let mut world = World::protected();
    let turned =
        json!({"name": "b", "action": "Deny", "methods": ["PUT", "GET"], "paths": [{"prefix": "/admin"}]});
    world.policy("p", rules(json!([rule("a", "Allow"), turned])));
    let target = world.target("p");
    assert_eq!(world.reasons("p"), ("Conflicted", "Conflicted"));
    assert!(
        target
            .accepted
            .message
            .starts_with("spec.authorization[1]: rule b contradicts rule a: "),
        "{}",
        target.accepted.message
    );
    // To report what one would deny is no contradiction, nor is the same thing said twice.
    world.policy(
        "p",
        rules(json!([
            rule("a", "Allow"),
            with(rule("b", "Deny"), "/mode", json!("Audit"))
        ])),
    );
    assert_eq!(world.reasons("p").0, "Accepted");
    world.policy("p", rules(json!([rule("a", "Deny"), rule("b", "Deny")])));
    assert_eq!(world.reasons("p").0, "Accepted");
}

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
        (target.waypoint.as_deref(), target.guarded_pods),
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
            .ends_with("; until then the policy stays in force for Service web too"),
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
        (vec!["wbe", "api"], "in namespace shop"),
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

/// Without retry there is one try, which has the time for one try.
#[test]
fn a_timeout_of_one_try_is_that_of_the_request_without_retry() {
    let mut world = World::protected();
    let timeouts = json!({"request": "5s", "backendRequest": "2s"});
    world.policy("orders", with(orders(), "/timeouts", timeouts.clone()));
    assert_eq!(policy_of(&world, "orders").timeout.unwrap().seconds, 2);
    let retried = with(with(orders(), "/timeouts", timeouts), "/retry", json!({}));
    world.policy("orders", retried);
    let policy = policy_of(&world, "orders");
    assert_eq!(policy.timeout.unwrap().seconds, 5);
    assert_eq!(policy.retry.unwrap().per_try_timeout.unwrap().seconds, 2);
}

#[test]
fn of_several_timeouts_and_retries_one_applies() {
    let mut world = World::protected();
    let named = |name: &str, created: &str, spec: Value| json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": spec});
    let timeout = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "1s"}});
    let retry = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "retry": {"attempts": 1}});
    let all = with(
        timeout.clone(),
        "/targetRefs",
        json!([{"kind": "Namespace", "name": "shop"}]),
    );
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    world.policy_object(named("namespace", "2020-01-01T00:00:00Z", all));
    world.policy_object(named("younger", "2026-01-01T00:00:00Z", timeout.clone()));
    world.policy_object(named("older", "2024-01-01T00:00:00Z", timeout.clone()));
    world.policy_object(named("b-twin", "2024-01-01T00:00:00Z", timeout));
    world.policy_object(named("retry", "2026-01-01T00:00:00Z", retry));
    world.settle();
    let services = world.services_of("waypoint");
    let of = |name: &str| services.iter().find(|s| s.name == name).unwrap();
    assert_eq!(
        (of("web").timeout.as_str(), of("web").retry.as_str()),
        ("shop/b-twin", "shop/retry")
    );
    assert_eq!(
        (of("api").timeout.as_str(), of("api").retry.as_str()),
        ("shop/namespace", "")
    );
    for (policy, note) in [
        (
            "younger",
            "at Service web shop/b-twin goes before it with its timeouts",
        ),
        (
            "namespace",
            "at Service web shop/b-twin goes before it with its timeouts",
        ),
    ] {
        let programmed = world.target(policy).programmed;
        assert!(
            programmed.status && programmed.message.contains(note),
            "{}",
            programmed.message
        );
    }
    assert!(!world.target("b-twin").programmed.message.contains("goes before"));
}

#[test]
fn rules_of_all_policies_apply() {
    let mut world = World::protected();
    world.policy("all", everywhere());
    assert_eq!(
        world.services_of("waypoint")[0].authorization,
        ["shop/all", "shop/orders"]
    );
    assert_eq!(world.index.policy_summary(&Key::new("shop", "nobody")), None);
}
