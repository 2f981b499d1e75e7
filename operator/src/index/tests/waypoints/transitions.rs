use super::guards::{CLIENT_ID, WAYPOINT_ID};
use super::*;

const GUARD: &str = "shop/ambit-guard-web";

impl World {
    fn guarded(&self) -> bool {
        let named = &self.workload("a").unwrap().authorization_policies;
        named.contains(&GUARD.to_owned())
    }
}

#[test]
fn pods_are_closed_from_the_binding_on_until_its_end() {
    let mut world = World::shop();
    world.policy("orders", orders());
    assert!(world.bound("web").is_none() && !world.guarded());
    world.waypoint("shop", "waypoint", true);
    assert!(world.bound("web").is_some() && world.guarded());
    assert_eq!(world.reasons("orders").1, "Programmed");

    world.delete_policy("orders");
    assert!(world.bound("web").is_none() && !world.guarded());
    assert!(!world.authorizations.contains_key(GUARD));
    assert!(!world.summary("waypoint").unwrap().desired);
    // For callers that have not heard of it.
    assert_eq!(world.served("waypoint"), ["web"]);
}

#[test]
fn an_operator_that_starts_changes_nothing() {
    let mut running = World::protected();
    running.waypoint("shop", "waypoint", true);
    // The same objects, read all at once.
    let mut index = Index::new(Config::default());
    std::mem::swap(&mut index, &mut running.index);
    let mut fresh = Index::new(Config::default());
    fresh.set_mesh(index.mesh.clone());
    fresh.set_namespace("shop", Some(true));
    for (key, record) in &index.services {
        fresh.set_service(key, Some(record.clone()));
    }
    for (key, record) in &index.pods {
        fresh.set_pod(key, Some(record.clone()));
    }
    for (key, record) in &index.policies {
        fresh.set_policy(key, Some(record.clone()));
    }
    let register = index.registered_in("shop");
    let register = register.map(|(key, entry)| (key.name.clone(), entry.clone()));
    fresh.set_register("shop", register.collect());
    let slice = index.endpoints.get(&Key::new("shop", "web-1")).cloned();
    fresh.set_slice(&Key::new("shop", "web-1"), slice);
    let update = fresh.flush();
    assert!(update.timers.is_empty());
    let mut addresses = BTreeMap::new();
    apply(&mut addresses, update.addresses, &mut Vec::new());
    assert_eq!(addresses, running.addresses);
    let mut authorizations = BTreeMap::new();
    let placed = update.authorizations.into_values().flatten();
    let placed = placed.map(|(name, message)| (name, message.map(Vec::from)));
    let all = update.everywhere.into_iter().chain(placed).collect();
    apply(&mut authorizations, all, &mut Vec::new());
    assert_eq!(authorizations, running.authorizations);
    let waypoints: BTreeMap<_, _> = update
        .waypoints
        .into_iter()
        .map(|(k, r)| (k, r.unwrap()))
        .collect();
    assert_eq!(waypoints, running.waypoints);
}

#[test]
fn what_has_left_a_waypoint_is_served_on_for_a_while() {
    let mut world = World::protected();
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("waypoint"));
    world.settle();
    assert_eq!(world.served("waypoint"), ["api", "web"]);
    // It moves.
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("edge"));
    world.waypoint("shop", "edge", true);
    assert_eq!(
        world.bound("web").as_deref(),
        Some("shop/edge.shop.svc.cluster.local")
    );
    assert_eq!(world.served("edge"), ["web"]);
    assert_eq!(world.served("waypoint"), ["api", "web"]);
    // Its rules go with it as long as it is served.
    assert!(world.sent("waypoint").policies.contains_key("shop/orders"));
    world.settle();
    assert_eq!(world.served("waypoint"), ["api"]);
    assert!(world.sent("waypoint").policies.is_empty());
}

#[test]
fn one_that_comes_back_stays() {
    let mut world = World::protected();
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("waypoint"));
    world.settle();
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    assert_eq!(world.served("waypoint"), ["api", "web"]);
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("waypoint"));
    world.settle();
    assert_eq!(world.served("waypoint"), ["api", "web"]);
}

#[test]
fn a_waypoint_that_drains_keeps_its_configuration_until_its_service_is_gone() {
    let mut world = World::protected();
    world.delete_policy("orders");
    world.settle();
    assert_eq!(world.bound("web"), None);
    assert_eq!(world.served("waypoint"), ["web"]);
    assert!(world.index.has_waypoint("shop", "waypoint"));
    world.taken_down("waypoint");
    assert!(world.waypoints.is_empty());
    assert!(!world.index.has_waypoint("shop", "waypoint"));
    assert!(world.index.waypoints_in("shop").is_empty() && world.index.waypoint_namespaces().is_empty());
}

#[test]
fn a_service_that_is_deleted_is_gone_at_once() {
    let mut world = World::protected();
    world.delete_service("web");
    assert!(world.services_of("waypoint").is_empty());
    assert_eq!(world.reasons("orders").0, "TargetNotFound");
    world.settle();
}

#[test]
fn both_waypoints_may_come_as_long_as_both_serve_a_service() {
    let mut world = World::protected();
    world.waypoint("shop", "edge", true);
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("edge"));
    let principals = |world: &World| {
        let guard = &world.authorizations[GUARD];
        guard.rules[0].clauses[0].matches[0].not_principals.len()
    };
    assert_eq!((principals(&world), world.guarded()), (2, true));
    assert_eq!(world.served("waypoint"), ["web"]);
    world.taken_down("waypoint");
    assert_eq!((principals(&world), world.guarded()), (1, true));
}

#[test]
fn a_waypoint_goes_on_with_hbone_until_a_leaving_pods_redirection_is_away() {
    let hbone = |world: &World| {
        let workloads = &world.sent("waypoint").workloads;
        let a = Workload::decode(workloads["Kubernetes//Pod/shop/a"].as_slice()).unwrap();
        a.tunnel_protocol() == ambit_wire::workload::TunnelProtocol::Hbone
    };
    let mut world = World::protected();
    assert!(hbone(&world) && world.guarded());
    world.namespace("shop", None);
    assert!(!world.guarded());
    assert!(
        hbone(&world),
        "plaintext would meet the guard where it is not yet dropped"
    );
    // Its node has taken the redirection away.
    world.pod(&pod("a", "10.0.0.1"));
    assert!(!hbone(&world));
}

/// What is open on the first one may go on until the drain deadline: its pods have to admit it.
#[test]
fn moved_service_admits_the_waypoint_that_it_has_left_until_the_drain_deadline() {
    let mut world = World::protected();
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("waypoint"));
    world.waypoint("shop", "edge", true);
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("edge"));
    assert!(world.admits("a", 8080, Some(WAYPOINT_ID)));
    world.expire(|_| true);
    assert_eq!(world.served("waypoint"), ["api"]);
    assert!(world.admits("a", 8080, Some(WAYPOINT_ID)));
    assert_eq!(world.timers.len(), 1);
    assert_eq!(world.timers[0].after, std::time::Duration::from_secs(60));
    world.expire(|_| true);
    assert!(!world.admits("a", 8080, Some(WAYPOINT_ID)) && world.timers.is_empty());
}

/// A control plane that has just started has not seen what a waypoint served that drains.
#[test]
fn pods_admit_a_waypoint_that_drains_whoever_has_seen_it_serve_them() {
    let mut world = World::shop();
    world.waypoint("shop", "waypoint", true);
    world.waypoint("shop", "edge", true);
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("edge"));
    world.policy("orders", orders());
    assert!(!world.summary("waypoint").unwrap().desired);
    assert!(world.admits("a", 8080, Some(WAYPOINT_ID)) && !world.admits("a", 8080, Some(CLIENT_ID)));
    world.taken_down("waypoint");
    assert!(!world.admits("a", 8080, Some(WAYPOINT_ID)));
}
