use std::collections::HashMap as Map;
use std::net::Ipv4Addr;

use ambit_wire::names::PORT_HBONE;
use ambit_wire::workload::{
    LoadBalancing, NetworkAddress, NetworkMode, Port, PortList, Service as WireService, TunnelProtocol,
    Workload as WireWorkload, WorkloadStatus, address::Type, load_balancing,
};

use super::*;

mod services;
mod waypoints;

const VIP: [u8; 4] = [10, 96, 0, 1];

fn ip(last: u8) -> [u8; 4] {
    [10, 244, 0, last]
}

fn socket(ip: [u8; 4], port: u16) -> SocketAddr {
    (Ipv4Addr::from(ip), port).into()
}

fn workload(name: &str, address: [u8; 4]) -> WireWorkload {
    WireWorkload {
        uid: format!("c//Pod/ns/{name}"),
        name: name.into(),
        namespace: "ns".into(),
        addresses: vec![address.to_vec()],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        ..WireWorkload::default()
    }
}

fn endpoint(name: &str, address: [u8; 4], target: u32) -> WireWorkload {
    let ports = vec![Port {
        service_port: 80,
        target_port: target,
        ..Port::default()
    }];
    WireWorkload {
        services: [(
            "ns/web.ns.svc.cluster.local".to_owned(),
            PortList {
                ports,
                ..PortList::default()
            },
        )]
        .into(),
        ..workload(name, address)
    }
}

fn service() -> WireService {
    WireService {
        name: "web".into(),
        namespace: "ns".into(),
        hostname: "web.ns.svc.cluster.local".into(),
        addresses: vec![NetworkAddress {
            address: VIP.to_vec(),
            ..NetworkAddress::default()
        }],
        ports: vec![Port {
            service_port: 80,
            ..Port::default()
        }],
        ..WireService::default()
    }
}

fn set(what: Type) -> (String, Address) {
    let name = match &what {
        Type::Workload(workload) => workload.uid.clone(),
        Type::Service(service) => format!("{}/{}", service.namespace, service.hostname),
    };
    (name, Address { r#type: Some(what) })
}

fn remove(state: &MeshState, name: &str) -> Vec<Arc<str>> {
    state.apply_addresses(&[name.to_owned()], []).0
}

fn state(addresses: impl IntoIterator<Item = Type>) -> MeshState {
    let state = MeshState::new("here");
    let (moved, invalid) = state.apply_addresses(&[], addresses.into_iter().map(set));
    assert!(moved.is_empty() && invalid.is_empty());
    state
}

/// How often each endpoint of the service is chosen.
fn chosen(state: &MeshState, times: usize) -> Map<SocketAddr, usize> {
    let mut counts = Map::new();
    for _ in 0..times {
        *counts
            .entry(state.route(None, socket(VIP, 80), &[]).unwrap().target)
            .or_default() += 1;
    }
    counts
}

#[test]
fn unknown_addresses_pass_in_plaintext() {
    let route = state([]).route(None, socket([1, 1, 1, 1], 443), &[]).unwrap();
    assert_eq!((route.target, route.hbone), (socket([1, 1, 1, 1], 443), None));
}

#[test]
fn a_pods_address_leads_to_its_hbone_port_and_names_its_own() {
    let route = state([Type::Workload(workload("a", ip(1)))])
        .route(None, socket(ip(1), 8080), &[])
        .unwrap();
    assert_eq!(route.target, socket(ip(1), 8080));
    assert_eq!(route.hbone, Some(socket(ip(1), PORT_HBONE)));
    let identity = route.workload.unwrap().identity.to_string();
    assert_eq!(identity, "spiffe://cluster.local/ns/ns/sa/default");
}

#[test]
fn endpoints_may_come_before_their_service_and_have_their_own_target_ports() {
    let state = state([
        Type::Workload(endpoint("a", ip(1), 8080)),
        Type::Workload(endpoint("b", ip(2), 9090)),
        Type::Service(service()),
    ]);
    let counts = chosen(&state, 200);
    assert_eq!(counts.len(), 2);
    assert!(
        counts[&socket(ip(1), 8080)] > 20 && counts[&socket(ip(2), 9090)] > 20,
        "{counts:?}"
    );
}

#[test]
fn the_less_loaded_of_two_is_preferred() {
    let state = state([
        Type::Service(service()),
        Type::Workload(endpoint("a", ip(1), 80)),
        Type::Workload(endpoint("b", ip(2), 80)),
    ]);
    let held: Vec<_> = (0..1000)
        .map(|_| state.route(None, socket(VIP, 80), &[]).unwrap())
        .collect();
    let of_a = held
        .iter()
        .filter(|route| route.target == socket(ip(1), 80))
        .count();
    assert!((400..=600).contains(&of_a), "{of_a}");
    // An update of the endpoint does not forget its load.
    let of_b: Vec<_> = held
        .into_iter()
        .filter(|route| route.target == socket(ip(2), 80))
        .collect();
    state.apply_addresses(&[], [set(Type::Workload(endpoint("b", ip(2), 80)))]);
    let next: Vec<_> = (0..200)
        .map(|_| state.route(None, socket(VIP, 80), &[]).unwrap())
        .collect();
    let to_b = next
        .iter()
        .filter(|route| route.target == socket(ip(2), 80))
        .count();
    assert!(
        to_b < 75 && of_b.len() >= 400,
        "{to_b} of 200 went to the loaded one"
    );
}

#[test]
fn tried_unhealthy_and_removed_endpoints_are_excluded() {
    let sick = WireWorkload {
        status: WorkloadStatus::Unhealthy.into(),
        ..endpoint("sick", ip(3), 80)
    };
    let state = state([
        Type::Service(service()),
        Type::Workload(endpoint("a", ip(1), 80)),
        Type::Workload(endpoint("b", ip(2), 80)),
        Type::Workload(sick),
    ]);
    let tried = [Arc::from("c//Pod/ns/a")];
    for _ in 0..20 {
        assert_eq!(
            state.route(None, socket(VIP, 80), &tried).unwrap().target,
            socket(ip(2), 80)
        );
    }
    let moved = remove(&state, "c//Pod/ns/b");
    assert_eq!(moved, [Arc::from("c//Pod/ns/b")]);
    assert_eq!(
        chosen(&state, 20).into_keys().collect::<Vec<_>>(),
        [socket(ip(1), 80)]
    );
    remove(&state, "c//Pod/ns/a");
    assert!(matches!(
        state.route(None, socket(VIP, 80), &[]),
        Err(RouteError::NoHealthyEndpoint(_))
    ));
    // The service says that health does not matter.
    let all = LoadBalancing {
        health_policy: load_balancing::HealthPolicy::AllowAll.into(),
        ..Default::default()
    };
    state.apply_addresses(
        &[],
        [set(Type::Service(WireService {
            load_balancing: Some(all),
            ..service()
        }))],
    );
    assert_eq!(
        state.route(None, socket(VIP, 80), &[]).unwrap().target,
        socket(ip(3), 80)
    );
}

#[test]
fn a_port_that_the_service_does_not_have_is_an_error() {
    let state = state([Type::Service(service()), Type::Workload(endpoint("a", ip(1), 80))]);
    assert!(matches!(
        state.route(None, socket(VIP, 81), &[]),
        Err(RouteError::NoPort(_, 81))
    ));
}

#[test]
fn address_moves_to_another_pod() {
    let state = state([Type::Workload(workload("old", ip(1)))]);
    state.apply_addresses(&[], [set(Type::Workload(workload("new", ip(1))))]);
    let moved = remove(&state, "c//Pod/ns/old");
    assert_eq!(moved, [Arc::from("c//Pod/ns/old")]);
    assert_eq!(state.workload(Ipv4Addr::from(ip(1)).into()).unwrap().name, "new");
    // And an address that a pod gave up is nobody's.
    let (moved, _) = state.apply_addresses(&[], [set(Type::Workload(workload("new", ip(2))))]);
    assert_eq!(moved, [Arc::from("c//Pod/ns/new")]);
    assert!(state.workload(Ipv4Addr::from(ip(1)).into()).is_none());
}

#[test]
fn removed_service_frees_its_addresses() {
    let state = state([Type::Service(service()), Type::Workload(endpoint("a", ip(1), 80))]);
    let elsewhere = vec![NetworkAddress {
        address: vec![10, 96, 0, 2],
        ..NetworkAddress::default()
    }];
    state.apply_addresses(
        &[],
        [set(Type::Service(WireService {
            addresses: elsewhere,
            ..service()
        }))],
    );
    assert!(
        state
            .route(None, socket(VIP, 80), &[])
            .unwrap()
            .workload
            .is_none()
    );
    assert!(
        state
            .route(None, socket([10, 96, 0, 2], 80), &[])
            .unwrap()
            .workload
            .is_some()
    );
    remove(&state, "ns/web.ns.svc.cluster.local");
    assert!(
        state
            .route(None, socket([10, 96, 0, 2], 80), &[])
            .unwrap()
            .workload
            .is_none()
    );
    assert_eq!(state.counts(), (1, 0, 0));
}

#[test]
fn pods_of_the_host_network_do_not_own_the_nodes_address() {
    let agent = WireWorkload {
        network_mode: NetworkMode::HostNetwork.into(),
        ..workload("agent", ip(9))
    };
    let state = state([Type::Workload(agent)]);
    assert!(state.workload(Ipv4Addr::from(ip(9)).into()).is_none());
    assert_eq!(state.counts().0, 1);
}

#[test]
fn malformed_resources_are_named_and_others_applied() {
    let state = state([Type::Workload(workload("good", ip(1)))]);
    let short = WireWorkload {
        addresses: vec![vec![1, 2, 3]],
        ..workload("good", ip(1))
    };
    let port = WireService {
        ports: vec![Port {
            service_port: 70_000,
            ..Port::default()
        }],
        ..service()
    };
    let (_, invalid) = state.apply_addresses(
        &[],
        [
            set(Type::Workload(short)),
            set(Type::Service(port)),
            ("empty".into(), Address::default()),
            set(Type::Workload(workload("other", ip(2)))),
        ],
    );
    let expected = [
        ("c//Pod/ns/good".to_owned(), Invalid::Ip(3)),
        ("ns/web.ns.svc.cluster.local".to_owned(), Invalid::Port(70_000)),
        ("empty".to_owned(), Invalid::Kind),
    ];
    assert_eq!(invalid, expected);
    // The last good one is in force.
    assert_eq!(state.workload(Ipv4Addr::from(ip(1)).into()).unwrap().name, "good");
    assert_eq!(
        state.workload(Ipv4Addr::from(ip(2)).into()).unwrap().name,
        "other"
    );
}
