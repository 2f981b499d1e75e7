//! How the fields of the Service API decide, and what is not understood.

use ambit_wire::workload::EndpointHealth;
use prost::Message;

use super::*;

fn on(node: &str, endpoint: WireWorkload) -> Type {
    Type::Workload(WireWorkload {
        node: node.into(),
        ..endpoint
    })
}

fn by_node(mode: load_balancing::Mode) -> Type {
    Type::Service(WireService {
        load_balancing: Some(LoadBalancing {
            routing_preference: vec![load_balancing::Scope::Node.into()],
            mode: mode.into(),
            ..Default::default()
        }),
        ..service()
    })
}

#[test]
fn local_policy_stays_on_the_node() {
    let state = state([
        by_node(load_balancing::Mode::Strict),
        on("here", endpoint("a", ip(1), 80)),
        on("there", endpoint("b", ip(2), 80)),
    ]);
    assert_eq!(
        chosen(&state, 50).into_keys().collect::<Vec<_>>(),
        [socket(ip(1), 80)]
    );
    let tried = [Arc::from("c//Pod/ns/a")];
    let gone = state.route(None, socket(VIP, 80), &tried);
    assert!(matches!(gone, Err(RouteError::NoHealthyEndpoint(_))));
    remove(&state, "c//Pod/ns/a");
    let none = state.route(None, socket(VIP, 80), &[]);
    assert!(matches!(none, Err(RouteError::NoHealthyEndpoint(_))));
}

/// For clients of a zone and of a node; nothing for "".
fn hinted(zone: &str, node: &str, mut endpoint: WireWorkload) -> Type {
    let hints = |hint: &str| (!hint.is_empty()).then(|| hint.to_owned()).into_iter().collect();
    for list in endpoint.services.values_mut() {
        list.for_zones = hints(zone);
        list.for_nodes = hints(node);
    }
    Type::Workload(endpoint)
}

/// A client of node `here`.
fn in_zone(zone: &str) -> Type {
    Type::Workload(WireWorkload {
        node: "here".into(),
        locality: Some(ambit_wire::workload::Locality {
            zone: zone.into(),
            ..Default::default()
        }),
        ..workload("client", ip(200))
    })
}

fn chosen_by_client(state: &MeshState) -> Vec<SocketAddr> {
    let client = Some(IpAddr::from(ip(200)));
    let routes = (0..60).map(|_| state.route(client, socket(VIP, 80), &[]).unwrap().target);
    let mut targets: Vec<_> = routes.collect();
    targets.sort();
    targets.dedup();
    targets
}

#[test]
fn hints_count_where_every_endpoint_has_one_and_one_is_for_the_client() {
    let west = || hinted("west", "", endpoint("a", ip(1), 80));
    let east = || hinted("east", "", endpoint("b", ip(2), 80));
    let service = || Type::Service(service());
    let both = [socket(ip(1), 80), socket(ip(2), 80)];
    assert_eq!(
        chosen_by_client(&state([service(), west(), east(), in_zone("east")])),
        both[1..]
    );
    for (client, why) in [
        ("north", "no endpoint is for that zone"),
        ("", "its zone is not known"),
    ] {
        let state = state([service(), west(), east(), in_zone(client)]);
        assert_eq!(chosen_by_client(&state), both, "{why}");
    }
    let unhinted = hinted("", "", endpoint("b", ip(2), 80));
    let state = state([service(), west(), unhinted, in_zone("west")]);
    assert_eq!(chosen_by_client(&state), both, "an endpoint has no hint");
    // One that is not ready needs none.
    let mut unready = endpoint("b", ip(2), 80);
    unready.status = WorkloadStatus::Unhealthy.into();
    state.apply_addresses(&[], [set(Type::Workload(unready))]);
    assert_eq!(chosen_by_client(&state), both[..1]);
}

#[test]
fn node_hints_precede_zone_hints() {
    let near = || hinted("east", "here", endpoint("a", ip(1), 80));
    let state = state([
        Type::Service(service()),
        near(),
        hinted("west", "there", endpoint("b", ip(2), 80)),
        in_zone("west"),
    ]);
    assert_eq!(chosen_by_client(&state), [socket(ip(1), 80)]);
    // Where the near ones fail, others do.
    let client = Some(IpAddr::from(ip(200)));
    let route = state.route(client, socket(VIP, 80), &[]).unwrap();
    route.in_use.unwrap().failed();
    assert_eq!(chosen_by_client(&state), [socket(ip(2), 80)]);
    // Without one of the node, those of the zone.
    remove(&state, "c//Pod/ns/a");
    let far = hinted("east", "yonder", endpoint("a", ip(1), 80));
    state.apply_addresses(&[], [set(far)]);
    assert_eq!(chosen_by_client(&state), [socket(ip(2), 80)]);
}

#[test]
fn zone_hint_overrides_affinity() {
    let state = state([
        sticky(10_800),
        hinted("east", "", endpoint("a", ip(1), 80)),
        in_zone("west"),
    ]);
    assert_eq!(chosen_by_client(&state), [socket(ip(1), 80)]);
    state.apply_addresses(&[], [set(hinted("west", "", endpoint("b", ip(2), 80)))]);
    assert_eq!(chosen_by_client(&state), [socket(ip(2), 80)]);
}

#[test]
fn addresses_outside_of_the_cluster_lead_to_the_service_by_port() {
    const OUTSIDE: [u8; 4] = [203, 0, 113, 7];
    let external = |name: &str, address: [u8; 4], port: u32| WireService {
        name: name.into(),
        hostname: format!("{name}.ns.svc.cluster.local"),
        addresses: Vec::new(),
        ports: vec![Port {
            service_port: port,
            target_port: 80,
            ..Port::default()
        }],
        external_addresses: vec![ambit_wire::workload::ExternalAddress {
            address: address.to_vec(),
            ports: vec![port],
        }],
        ..service()
    };
    // Services share an address, and one claims that of a pod, and a cluster IP.
    let state = state([
        Type::Service(WireService {
            load_balancing: match by_node(load_balancing::Mode::Strict) {
                Type::Service(local) => local.load_balancing,
                Type::Workload(_) => None,
            },
            external_addresses: external("web", OUTSIDE, 80).external_addresses,
            ..service()
        }),
        Type::Service(external("other", OUTSIDE, 81)),
        Type::Service(external("thief", ip(1), 80)),
        Type::Service(external("robber", VIP, 80)),
        on("there", endpoint("a", ip(1), 80)),
    ]);
    let of = |address, port| state.route(None, socket(address, port), &[]);
    // `internalTrafficPolicy: Local` is for its cluster IP.
    let route = of(OUTSIDE, 80).unwrap();
    assert_eq!(
        (route.target, route.hbone),
        (socket(ip(1), 80), Some(socket(ip(1), PORT_HBONE)))
    );
    assert_eq!(route.service.unwrap().name, "web");
    let inside = of(VIP, 80);
    assert!(matches!(inside, Err(RouteError::NoHealthyEndpoint(service)) if service.name == "web"));
    let other = of(OUTSIDE, 81);
    assert!(matches!(other, Err(RouteError::NoHealthyEndpoint(service)) if service.name == "other"));
    assert!(of(OUTSIDE, 82).unwrap().hbone.is_none(), "goes on as it is");
    assert!(of(ip(1), 80).unwrap().service.is_none(), "the pod's own");
    remove(&state, "ns/other.ns.svc.cluster.local");
    assert!(of(OUTSIDE, 81).unwrap().service.is_none());
}

fn sticky(seconds: u32) -> Type {
    Type::Service(WireService {
        session_affinity_seconds: seconds,
        ..service()
    })
}

fn target(state: &MeshState, client: u8) -> SocketAddr {
    let client = IpAddr::from(ip(client));
    state.route(Some(client), socket(VIP, 80), &[]).unwrap().target
}

#[test]
fn affinity_lasts_until_the_endpoint_is_removed() {
    let endpoints = (1..=5).map(|n| Type::Workload(endpoint(&format!("e{n}"), ip(n), 80)));
    let state = state(endpoints.chain([sticky(10_800)]));
    let of = |client| {
        let first = target(&state, client);
        assert!((0..20).all(|_| target(&state, client) == first));
        first
    };
    let first: Vec<_> = (100..140).map(of).collect();
    assert!(first.iter().any(|target| *target != first[0]), "clients differ");
    // More endpoints take nobody away.
    state.apply_addresses(&[], [set(Type::Workload(endpoint("e6", ip(6), 80)))]);
    let again: Vec<_> = (100..140).map(|client| target(&state, client)).collect();
    assert_eq!(first, again);
    // One other takes the place of one that goes.
    remove(&state, "c//Pod/ns/e1");
    for (client, before) in (100..140).zip(first) {
        let now = of(client);
        assert!(now != socket(ip(1), 80));
        assert!(before == socket(ip(1), 80) || now == before);
    }
}

#[test]
fn affinity_is_the_same_in_every_proxy() {
    let mesh = || {
        state(
            (1..=5)
                .map(|n| Type::Workload(endpoint(&format!("e{n}"), ip(n), 80)))
                .chain([sticky(5)]),
        )
    };
    let (one, other) = (mesh(), mesh());
    for client in 100..120 {
        assert_eq!(target(&one, client), target(&other, client));
    }
}

#[test]
fn an_endpoint_is_as_ready_as_its_slice_says() {
    let with = |name: &str, last, health: EndpointHealth| {
        let mut one = endpoint(name, ip(last), 80);
        for list in one.services.values_mut() {
            list.health = health.into();
        }
        Type::Workload(one)
    };
    let Type::Workload(unready) = with("b", 2, EndpointHealth::Ready) else {
        unreachable!()
    };
    let unready = WireWorkload {
        status: WorkloadStatus::Unhealthy.into(),
        ..unready
    };
    let state = state([
        Type::Service(service()),
        with("a", 1, EndpointHealth::NotReady),
        Type::Workload(unready),
    ]);
    assert_eq!(
        chosen(&state, 20).into_keys().collect::<Vec<_>>(),
        [socket(ip(2), 80)]
    );
}

#[test]
fn unready_pods_are_published() {
    let mut unready = endpoint("a", ip(1), 80);
    unready.status = WorkloadStatus::Unhealthy.into();
    let all = Type::Service(WireService {
        load_balancing: Some(LoadBalancing {
            health_policy: load_balancing::HealthPolicy::AllowAll.into(),
            ..Default::default()
        }),
        ..service()
    });
    let state = state([all, Type::Workload(unready.clone())]);
    assert_eq!(
        chosen(&state, 1).into_keys().collect::<Vec<_>>(),
        [socket(ip(1), 80)]
    );
    for list in unready.services.values_mut() {
        list.health = EndpointHealth::NotReady.into();
    }
    state.apply_addresses(&[], [set(Type::Workload(unready))]);
    let none = state.route(None, socket(VIP, 80), &[]);
    assert!(matches!(none, Err(RouteError::NoHealthyEndpoint(_))));
}

fn refused(state: &MeshState, destination: SocketAddr) -> bool {
    matches!(
        state.route(None, destination, &[]),
        Err(RouteError::NotUnderstood(_))
    )
}

#[test]
fn malformed_destination_is_refused() {
    let state = state([]);
    let tunnel = WireWorkload {
        tunnel_protocol: 9,
        ..workload("a", ip(1))
    };
    let port = WireService {
        ports: vec![Port {
            service_port: 70_000,
            ..Port::default()
        }],
        ..service()
    };
    state.apply_addresses(&[], [set(Type::Workload(tunnel)), set(Type::Service(port))]);
    assert!(refused(&state, socket(ip(1), 8080)));
    assert!(refused(&state, socket(VIP, 80)));
    // Until it is understood, or gone.
    state.apply_addresses(&[], [set(Type::Workload(workload("a", ip(1))))]);
    assert!(!refused(&state, socket(ip(1), 8080)));
    remove(&state, "ns/web.ns.svc.cluster.local");
    assert!(!refused(&state, socket(VIP, 80)));
}

#[test]
fn undecodable_resource_closes_its_address() {
    let state = state([]);
    let (name, good) = set(Type::Workload(workload("a", ip(1))));
    // Field 1 of the workload (its name) as a number.
    let mut inner = vec![0x08, 0x01];
    let Some(Type::Workload(workload)) = good.r#type else {
        unreachable!()
    };
    inner.extend(workload.encode_to_vec());
    let mut bytes = vec![0x0a, u8::try_from(inner.len()).unwrap()];
    bytes.extend(inner);
    assert!(Address::decode(bytes.as_slice()).is_err());
    state.refuse_undecodable(&name, &bytes);
    assert!(refused(&state, socket(ip(1), 8080)));
}

#[test]
fn later_version_closes_an_earlier_one() {
    let state = state([Type::Service(service()), Type::Workload(endpoint("a", ip(1), 80))]);
    let later = WireService {
        requires: vec!["later".into()],
        ..service()
    };
    let (_, invalid) = state.apply_addresses(&[], [set(Type::Service(later))]);
    assert_eq!(invalid[0].1, Invalid::Requires("later".into()));
    assert!(refused(&state, socket(VIP, 80)));
    let later = WireWorkload {
        requires: vec!["later".into()],
        ..endpoint("a", ip(1), 80)
    };
    let (moved, _) = state.apply_addresses(&[], [set(Type::Workload(later))]);
    assert_eq!(moved, [Arc::from("c//Pod/ns/a")]);
    assert!(refused(&state, socket(ip(1), 80)));
}

#[test]
fn returning_workload_is_reauthorized() {
    let state = state([Type::Workload(workload("a", ip(1)))]);
    remove(&state, "c//Pod/ns/a");
    let changes = state.authorization_changed();
    let named = WireWorkload {
        authorization_policies: vec!["ns/only".into()],
        ..workload("a", ip(1))
    };
    state.apply_addresses(&[], [set(Type::Workload(named))]);
    assert!(changes.has_changed().unwrap());
}
