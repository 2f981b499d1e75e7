use std::time::Duration;

use ambit_policy::http::HttpRequest;
use ambit_policy::{Reason, Verdict};
use ambit_wire::security;

use super::*;

const SERVER: &str = "shop/server.shop.svc.cluster.local";
const VIP: [u8; 4] = [10, 96, 0, 1];

fn vip() -> IpAddr {
    VIP.into()
}

/// The entry of the service at its cluster IP.
fn served(state: &State) -> Option<Arc<ServiceEntry>> {
    Some(state.service_at(SocketAddr::new(vip(), 80))?.0)
}

fn service(authorization: &[&str]) -> wire::Service {
    wire::Service {
        namespace: "shop".into(),
        name: "server".into(),
        hostname: "server.shop.svc.cluster.local".into(),
        addresses: vec![VIP.to_vec()],
        ports: vec![wire::ServicePort {
            port: 80,
            protocol: AppProtocol::Http11.into(),
            ..Default::default()
        }],
        authorization: authorization.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn pod(uid: &str, last: u8) -> wire_workload::Workload {
    let ports = wire_workload::PortList {
        ports: vec![wire_workload::Port {
            service_port: 80,
            target_port: 8080,
            ..Default::default()
        }],
        ..Default::default()
    };
    wire_workload::Workload {
        uid: uid.into(),
        name: uid.into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, last]],
        services: [(SERVER.to_owned(), ports)].into(),
        tunnel_protocol: wire_workload::TunnelProtocol::Hbone.into(),
        ..Default::default()
    }
}

/// Connections to its own address come through this waypoint too.
fn bound(pod: wire_workload::Workload) -> wire_workload::Workload {
    wire_workload::Workload {
        waypoint: Some(wire_workload::GatewayAddress::default()),
        ..pod
    }
}

fn policy(name: &str, action: security::Action) -> WaypointPolicy {
    WaypointPolicy::try_from(wire::Policy {
        namespace: "shop".into(),
        name: name.into(),
        authorization: vec![wire::Rule {
            name: "gets".into(),
            action: action.into(),
            methods: vec!["GET".into()],
            ..Default::default()
        }],
        timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    })
    .unwrap()
}

fn set_services(state: &State, services: impl IntoIterator<Item = wire::Service>) {
    let named = services
        .into_iter()
        .map(|service| (format!("{}/{}", service.namespace, service.hostname), service));
    assert_eq!(state.apply_services(&[], named), []);
}

fn set_pods(state: &State, pods: impl IntoIterator<Item = wire_workload::Workload>) -> Vec<Arc<str>> {
    let named = pods.into_iter().map(|pod| (pod.uid.clone(), pod));
    let (moved, invalid) = state.apply_workloads(&[], named);
    assert_eq!(invalid, []);
    moved
}

fn uid(endpoint: &Endpoint) -> &str {
    &endpoint.workload.uid
}

#[test]
fn endpoints_and_services_may_come_in_any_order() {
    let state = State::new();
    set_pods(&state, [pod("a", 1)]);
    assert!(served(&state).is_none());
    set_services(&state, [service(&[])]);
    let entry = served(&state).unwrap();
    let endpoint = choose(&entry, 80, Client::default(), &[]).unwrap();
    assert_eq!(endpoint.target, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(
        endpoint.workload.hbone_address(endpoint.target),
        Some("10.0.0.1:15008".parse().unwrap())
    );
    assert!(
        choose(&entry, 81, Client::default(), &[]).is_none(),
        "the endpoint has no such port"
    );
    let config = entry.config().unwrap();
    assert_eq!(config.protocol(80), Some(AppProtocol::Http11));
    assert_eq!(config.protocol(81), None);
    // A service that goes away is gone for those who still hold it.
    state.apply_services(&[SERVER.to_owned()], []);
    assert!(entry.config().is_none());
    assert!(served(&state).is_none());
}

#[test]
fn of_two_endpoints_the_idle_one_is_chosen() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    set_pods(&state, [pod("a", 1), pod("b", 2)]);
    let entry = served(&state).unwrap();
    let first = choose(&entry, 80, Client::default(), &[]).unwrap();
    // The two drawn are always both there are.
    for _ in 0..20 {
        assert_ne!(
            uid(&choose(&entry, 80, Client::default(), &[]).unwrap()),
            uid(&first)
        );
    }
    // What is in flight outlives an update of the pod, and that of its service.
    set_pods(&state, [pod("a", 1), pod("b", 2)]);
    set_services(&state, [service(&[])]);
    for _ in 0..20 {
        assert_ne!(
            uid(&choose(&entry, 80, Client::default(), &[]).unwrap()),
            uid(&first)
        );
    }
    // A retry goes elsewhere, even to a busier one, as long as there is another.
    let busy: Vec<_> = (0..5)
        .map(|_| choose(&entry, 80, Client::default(), &["a".into()]).unwrap())
        .collect();
    assert!(busy.iter().all(|endpoint| uid(endpoint) == "b"));
    assert_eq!(
        uid(&choose(&entry, 80, Client::default(), &["b".into(), "c".into()]).unwrap()),
        "a"
    );
    assert!(choose(&entry, 80, Client::default(), &["a".into(), "b".into()]).is_some());
}

#[test]
fn of_many_endpoints_the_busiest_is_never_chosen() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    set_pods(&state, [pod("a", 1), bound(pod("b", 2)), pod("c", 3)]);
    let entry = served(&state).unwrap();
    let _busy = state.workload_at([10, 0, 0, 2].into(), 8080).unwrap();
    for _ in 0..200 {
        assert_ne!(uid(&choose(&entry, 80, Client::default(), &[]).unwrap()), "b");
    }
}

#[test]
fn unhealthy_endpoints_are_left_out_unless_the_service_wants_them() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    let unready = wire_workload::Workload {
        status: wire_workload::WorkloadStatus::Unhealthy.into(),
        ..pod("a", 1)
    };
    set_pods(&state, [unready.clone()]);
    let entry = served(&state).unwrap();
    assert!(choose(&entry, 80, Client::default(), &[]).is_none());
    let unready_too = wire::Service {
        load_balancing: Some(wire_workload::LoadBalancing {
            health_policy: wire_workload::load_balancing::HealthPolicy::AllowAll.into(),
            ..Default::default()
        }),
        ..service(&[])
    };
    set_services(&state, [unready_too]);
    assert_eq!(uid(&choose(&entry, 80, Client::default(), &[]).unwrap()), "a");
    set_services(&state, [service(&[])]);
    set_pods(&state, [pod("a", 1)]);
    assert!(choose(&entry, 80, Client::default(), &[]).is_some());
    state.apply_workloads(&["a".to_owned()], []);
    assert!(choose(&entry, 80, Client::default(), &[]).is_none());
}

#[test]
fn a_workload_that_moves_or_goes_is_told() {
    let state = State::new();
    assert_eq!(set_pods(&state, [pod("a", 1)]), []);
    assert_eq!(set_pods(&state, [pod("a", 1)]), []);
    let other_identity = wire_workload::Workload {
        service_account: "other".into(),
        ..pod("a", 1)
    };
    assert_eq!(set_pods(&state, [other_identity]), ["a".into()]);
    // Its address passes to another pod, and the removal of the first comes later.
    set_pods(&state, [bound(pod("b", 1))]);
    let (moved, _) = state.apply_workloads(&["a".to_owned(), "unknown".to_owned()], []);
    assert_eq!(moved, ["a".into()]);
    assert_eq!(uid(&state.workload_at([10, 0, 0, 1].into(), 80).unwrap()), "b");
}

#[test]
fn a_virtual_address_may_pass_from_one_service_to_another() {
    let state = State::new();
    let other = wire::Service {
        name: "other".into(),
        hostname: "other.shop.svc.cluster.local".into(),
        ..service(&[])
    };
    set_services(&state, [service(&[])]);
    set_services(&state, [other]);
    state.apply_services(&[SERVER.to_owned()], []);
    let config = served(&state).unwrap().config().unwrap();
    assert_eq!(config.name, "other");
}

#[test]
fn a_policy_that_has_not_come_closes_and_one_that_comes_is_in_force_at_once() {
    let state = State::new();
    let named = wire::Service {
        timeout: "shop/denies".into(),
        ..service(&["shop/denies", "shop/allows"])
    };
    set_services(&state, [named]);
    let entry = served(&state).unwrap();
    let request = HttpRequest {
        principal: Some("cluster.local/ns/shop/sa/cart"),
        attributes: None,
    };
    let decide = || entry.config().unwrap().policies(80).rules.evaluate(&request);
    assert_eq!(decide().verdict, Verdict::Deny);
    assert_eq!(
        decide().reason.to_string(),
        "policy shop/denies applies but has not been received"
    );
    assert_eq!(entry.config().unwrap().policies(80).timeout, None);

    state.apply_policies(&[], vec![policy("denies", security::Action::Deny)]);
    assert_eq!(decide().reason, Reason::DeniedBy("shop/denies/gets".into()));
    assert_eq!(
        entry.config().unwrap().policies(80).timeout,
        Some(Chosen {
            policy: "shop/denies".into(),
            value: Duration::from_secs(2)
        })
    );
    state.apply_policies(&[], vec![policy("denies", security::Action::Allow)]);
    assert_eq!(decide().reason, Reason::PolicyMissing("shop/allows".into()));
    state.apply_policies(&[], vec![policy("allows", security::Action::Allow)]);
    assert!(matches!(decide().reason, Reason::NotAllowedBy(names) if names.len() == 2));
    state.apply_policies(&["shop/allows".to_owned()], Vec::new());
    assert_eq!(decide().reason, Reason::PolicyMissing("shop/allows".into()));
}

#[test]
fn settings_name_the_rules_for_pods() {
    let state = State::new();
    let settings = wire::Settings {
        namespace: "shop".into(),
        workload_authorization: vec!["shop/denies".into()],
        ..Default::default()
    };
    state.apply_settings(settings).unwrap();
    let request = HttpRequest {
        principal: None,
        attributes: None,
    };
    let decide = || state.settings().workload_rules.evaluate(&request).reason;
    assert_eq!(decide(), Reason::PolicyMissing("shop/denies".into()));
    state.apply_policies(&[], vec![policy("denies", security::Action::Deny)]);
    assert_eq!(decide(), Reason::DeniedBy("shop/denies/gets".into()));
    assert_eq!(
        decide(),
        Reason::DeniedBy("shop/denies/gets".into()),
        "the last good one stays"
    );
}

#[test]
fn a_pod_that_is_not_bound_is_not_reached_by_its_own_address() {
    let state = State::new();
    set_pods(&state, [pod("a", 1)]);
    assert!(state.workload_at([10, 0, 0, 1].into(), 80).is_none());
    set_pods(&state, [bound(pod("a", 1))]);
    assert!(state.workload_at([10, 0, 0, 1].into(), 80).is_some());
}

#[test]
fn the_real_client_is_judged_by_the_rules_for_connections() {
    let state = State::new();
    let guarded = wire_workload::Workload {
        authorization_policies: vec!["shop/only-cart".into()],
        ..pod("a", 1)
    };
    set_pods(&state, [bound(guarded)]);
    let endpoint = state.workload_at([10, 0, 0, 1].into(), 8080).unwrap();
    let decide = |principal| {
        let connection = Connection {
            principal: Some(principal),
            source: "10.0.9.9".parse().unwrap(),
            destination: endpoint.target,
        };
        state.decide_l4(&endpoint.workload, &connection)
    };
    let cart = "cluster.local/ns/shop/sa/cart";
    assert_eq!(
        decide(cart).reason,
        Reason::PolicyMissing("shop/only-cart".into())
    );
    let only_cart = security::Authorization {
        name: "only-cart".into(),
        namespace: "shop".into(),
        scope: security::Scope::WorkloadSelector.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause {
                matches: vec![security::Match {
                    principals: vec![security::StringMatch {
                        match_type: Some(security::string_match::MatchType::Exact(cart.into())),
                    }],
                    ..Default::default()
                }],
            }],
        }],
        ..Default::default()
    };
    state.apply_authorizations(&[], vec![Policy::try_from(only_cart).unwrap()]);
    assert!(decide(cart).is_allowed());
    assert!(!decide("cluster.local/ns/shop/sa/other").is_allowed());
}

#[test]
fn what_is_not_understood_leaves_the_last_good_version() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    set_pods(&state, [pod("a", 1)]);
    let wrong = wire::Service {
        addresses: vec![vec![1, 2, 3]],
        ..service(&[])
    };
    assert_eq!(
        state.apply_services(&[], [(SERVER.to_owned(), wrong)]),
        [(SERVER.to_owned(), Invalid::Ip(3))]
    );
    let wrong = wire_workload::Workload {
        addresses: vec![vec![1, 2, 3]],
        ..pod("a", 1)
    };
    let (_, invalid) = state.apply_workloads(&[], [("a".to_owned(), wrong)]);
    assert_eq!(invalid.len(), 1);
    let entry = served(&state).unwrap();
    assert!(choose(&entry, 80, Client::default(), &[]).is_some());
    // What is written for a later version is another matter: how the pod is to be reached now is not known.
    let later = wire_workload::Workload {
        tunnel_protocol: 9,
        ..pod("a", 1)
    };
    state.apply_workloads(&[], [("a".to_owned(), later)]);
    assert!(choose(&entry, 80, Client::default(), &[]).is_none());
}

#[test]
fn a_service_that_keeps_to_its_clients_node_has_no_endpoint_for_others() {
    let state = State::new();
    let local = wire::Service {
        load_balancing: Some(wire_workload::LoadBalancing {
            routing_preference: vec![wire_workload::load_balancing::Scope::Node.into()],
            mode: wire_workload::load_balancing::Mode::Strict.into(),
            ..Default::default()
        }),
        ..service(&[])
    };
    set_services(&state, [local]);
    let on = |node: &str, pod| wire_workload::Workload {
        node: node.into(),
        ..pod
    };
    set_pods(&state, [on("one", pod("a", 1)), on("two", pod("b", 2))]);
    let entry = served(&state).unwrap();
    let from = |node| {
        let client = Client {
            node,
            ..Client::default()
        };
        choose(&entry, 80, client, &[]).map(|endpoint| endpoint.workload.uid.to_string())
    };
    for _ in 0..20 {
        assert_eq!(from("one").as_deref(), Some("a"));
        assert_eq!(from("two").as_deref(), Some("b"));
    }
    assert_eq!(from("three"), None);
    assert_eq!(from(""), None, "a client whose ztunnel does not say where it is");
}

#[test]
fn the_clients_node_and_zone_are_preferred_where_every_endpoint_has_a_hint() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    let hinted = |mut pod: wire_workload::Workload, zone: &str, node: &str| {
        for list in pod.services.values_mut() {
            list.for_zones = vec![zone.into()];
            list.for_nodes = vec![node.into()];
        }
        pod
    };
    set_pods(
        &state,
        [
            hinted(pod("a", 1), "west", "one"),
            hinted(pod("b", 2), "east", "two"),
        ],
    );
    let entry = served(&state).unwrap();
    let from = |node, zone| {
        let client = Client {
            node,
            zone,
            ..Client::default()
        };
        let chosen = (0..40).filter_map(|_| choose(&entry, 80, client, &[]));
        let mut uids: Vec<_> = chosen.map(|endpoint| uid(&endpoint).to_owned()).collect();
        uids.sort();
        uids.dedup();
        uids
    };
    assert_eq!(from("three", "east"), ["b"]);
    assert_eq!(from("one", "east"), ["a"], "the node goes before the zone");
    assert_eq!(from("three", "north").len(), 2, "no endpoint is for that zone");
    set_pods(&state, [pod("c", 3)]);
    assert_eq!(from("one", "west").len(), 3, "one has no hint");
}

#[test]
fn at_an_external_address_a_service_is_not_kept_to_the_clients_node() {
    let state = State::new();
    let outside: SocketAddr = "203.0.113.7:80".parse().unwrap();
    let local = wire::Service {
        load_balancing: Some(wire_workload::LoadBalancing {
            routing_preference: vec![wire_workload::load_balancing::Scope::Node.into()],
            mode: wire_workload::load_balancing::Mode::Strict.into(),
            ..Default::default()
        }),
        external_addresses: vec![wire_workload::ExternalAddress {
            address: vec![203, 0, 113, 7],
            ports: vec![80],
        }],
        ..service(&[])
    };
    set_services(&state, [local]);
    set_pods(
        &state,
        [wire_workload::Workload {
            node: "one".into(),
            ..pod("a", 1)
        }],
    );
    let (entry, via) = state.service_at(outside).unwrap();
    let client = Client {
        node: "two",
        via,
        ..Client::default()
    };
    assert!(choose(&entry, 80, client, &[]).is_some());
    let client = Client {
        via: Via::ClusterIp,
        ..client
    };
    assert!(choose(&entry, 80, client, &[]).is_none());
    // Of the address only what is the service's.
    assert!(state.service_at("203.0.113.7:81".parse().unwrap()).is_none());
    set_services(&state, [service(&[])]);
    assert!(state.service_at(outside).is_none());
}

#[test]
fn an_endpoint_that_fails_is_avoided_while_there_are_others() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    set_pods(&state, [pod("a", 1), pod("b", 2)]);
    let entry = served(&state).unwrap();
    let failing = choose(&entry, 80, Client::default(), &[]).unwrap();
    let (failed, in_use) = (uid(&failing).to_owned(), failing.in_use.clone());
    drop(failing);
    in_use.failed();
    for _ in 0..50 {
        assert_ne!(uid(&choose(&entry, 80, Client::default(), &[]).unwrap()), failed);
    }
    let others = [Arc::from("a"), Arc::from("b")];
    assert!(choose(&entry, 80, Client::default(), &others).is_some());
}

#[test]
fn what_requires_a_later_version_is_closed() {
    let state = State::new();
    set_services(&state, [service(&[])]);
    let later = wire::Service {
        requires: vec!["later".into()],
        ..service(&[])
    };
    let invalid = state.apply_services(&[], [(SERVER.to_owned(), later)]);
    assert_eq!(invalid[0].1, Invalid::Requires("later".into()));
    assert!(served(&state).is_none());
    let later = wire::Settings {
        requires: vec!["later".into()],
        ..Default::default()
    };
    assert!(state.apply_settings(later).is_err());
    let request = HttpRequest {
        principal: None,
        attributes: None,
    };
    assert!(!state.settings().workload_rules.evaluate(&request).is_allowed());
    // A policy, by its rule: an older reader must not take an Allow for a wider one.
    let mut rule = wire::Rule {
        name: "gets".into(),
        methods: vec!["GET".into()],
        ..Default::default()
    };
    rule.requires.push("later".into());
    let policy = wire::Policy {
        namespace: "shop".into(),
        name: "later".into(),
        authorization: vec![rule],
        ..Default::default()
    };
    assert!(WaypointPolicy::try_from(policy.clone()).is_err());
    let closed = ambit_wire::waypoint_policy::closed(&policy);
    state.apply_policies(&[], vec![closed]);
    set_services(&state, [service(&["shop/later"])]);
    let config = served(&state).unwrap().config().unwrap();
    assert!(!config.policies(80).rules.evaluate(&request).is_allowed());
}

#[test]
fn nothing_passes_to_pods_before_the_settings() {
    let state = State::new();
    let request = HttpRequest {
        principal: None,
        attributes: None,
    };
    let decide = || state.settings().workload_rules.evaluate(&request);
    assert!(!decide().is_allowed());
    // Those that are not understood change nothing.
    let wrong = wire::Settings {
        requires: vec!["later".into()],
        ..Default::default()
    };
    assert!(state.apply_settings(wrong).is_err());
    assert!(!decide().is_allowed() && !state.settings().received);
    state.apply_settings(wire::Settings::default()).unwrap();
    assert!(decide().is_allowed() && state.settings().received);
}
