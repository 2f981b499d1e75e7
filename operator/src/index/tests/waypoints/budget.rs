//! A policy has a budget of bytes: its waypoint holds it, and its status may have to repeat it.

use super::*;

/// Of some 80 KiB.
fn large() -> Value {
    let path = |n: usize| json!({"exact": format!("/{n}/{}", "x".repeat(500))});
    let paths: Vec<Value> = (0..16).map(path).collect();
    let rule = |n: usize| json!({"name": format!("r{n}"), "action": "Allow", "paths": paths});
    with(orders(), "/authorization", (0..10).map(rule).collect())
}

fn object(generation: i64, spec: Value) -> Value {
    json!({"metadata": {"name": "orders", "generation": generation}, "spec": spec})
}

fn rules(world: &World) -> Vec<String> {
    let sent = world.sent("waypoint");
    let policy = wire::Policy::decode(sent.policies["shop/orders"].as_slice()).unwrap();
    policy.authorization.into_iter().map(|r| r.name).collect()
}

#[test]
fn large_policy_is_not_accepted_nor_repeated_in_status() {
    let mut world = World::shop();
    world.waypoint("shop", "waypoint", true);
    world.policy_object(object(1, orders()));
    world.policy_object(object(2, large()));
    world.settle();
    let accepted = world.target("orders").accepted;
    assert_eq!(accepted.reason.as_str(), "Invalid");
    assert!(
        accepted.message.starts_with("spec.authorization: the rules have"),
        "{}",
        accepted.message
    );
    assert_eq!(rules(&world), ["readers"]);
    let summary = world.index.policy_summary(&Key::new("shop", "orders")).unwrap();
    let repeated = serde_json::to_vec(&summary.in_force.unwrap()).unwrap();
    assert!(repeated.len() < 1 << 10, "{}", repeated.len());
    // Without an earlier version nobody is let through, and nothing is repeated.
    world.delete_policy("orders");
    world.policy_object(object(3, large()));
    assert_eq!(rules(&world), ["unreadable"]);
    let summary = world.index.policy_summary(&Key::new("shop", "orders")).unwrap();
    assert_eq!(summary.in_force, None);
}
