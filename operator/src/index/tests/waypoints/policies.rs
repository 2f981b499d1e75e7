mod lasting;

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
            "spec.targetRefs[0]: namespace shop has no Service \"nobody\"",
        ),
        ("Namespace", "bank", "Invalid", "spec.targetRefs[0].name"),
        ("Service", "waypoint", "Invalid", "belongs to a waypoint"),
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
            "at Service web, shop/b-twin has precedence for its timeouts",
        ),
        (
            "namespace",
            "at Service web, shop/b-twin has precedence for its timeouts",
        ),
    ] {
        let programmed = world.target(policy).programmed;
        assert!(
            programmed.status && programmed.message.contains(note),
            "{}",
            programmed.message
        );
    }
    assert!(
        !world
            .target("b-twin")
            .programmed
            .message
            .contains("has precedence")
    );
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
