//! What is bound to a waypoint.

use ambit_wire::workload::{GatewayAddress, NamespacedHostname, gateway_address::Destination};

use super::*;

const WAYPOINT: &str = "ns/waypoint.ns.svc.cluster.local";

fn by_name() -> GatewayAddress {
    GatewayAddress {
        destination: Some(Destination::Hostname(NamespacedHostname {
            namespace: "ns".into(),
            hostname: "waypoint.ns.svc.cluster.local".into(),
        })),
        hbone_mtls_port: 15008,
    }
}

fn bound(waypoint: GatewayAddress) -> Type {
    Type::Service(WireService {
        waypoint: Some(waypoint),
        ..service()
    })
}

fn replica(name: &str, address: [u8; 4]) -> Type {
    let ports = vec![Port {
        service_port: 15008,
        target_port: 15008,
        ..Port::default()
    }];
    Type::Workload(WireWorkload {
        services: [(
            WAYPOINT.to_owned(),
            PortList {
                ports,
                ..PortList::default()
            },
        )]
        .into(),
        service_account: "waypoint".into(),
        tunnel_protocol: TunnelProtocol::None.into(),
        ..workload(name, address)
    })
}

#[test]
fn bound_service_uses_waypoint_with_virtual_address() {
    let state = state([
        bound(by_name()),
        Type::Workload(endpoint("web", ip(1), 8080)),
        replica("waypoint-1", ip(7)),
    ]);
    let route = state.route(None, socket(VIP, 80), &[]).unwrap();
    assert_eq!(route.target, socket(VIP, 80));
    assert_eq!(route.hbone, Some(socket(ip(7), 15008)));
    assert_eq!(
        route.workload.unwrap().identity.service_account(),
        "waypoint",
        "the identity that must be found there"
    );
    assert_eq!(route.service.unwrap().name, "web");
}

#[test]
fn waypoint_without_replica_is_not_bypassed() {
    let nowhere = GatewayAddress::default();
    let unready = |replica: Type| match replica {
        Type::Workload(workload) => Type::Workload(WireWorkload {
            status: WorkloadStatus::Unhealthy.into(),
            ..workload
        }),
        other => other,
    };
    for (waypoint, replica) in [
        (by_name(), None),
        (nowhere, Some(replica("waypoint-1", ip(7)))),
        (by_name(), Some(unready(replica("waypoint-1", ip(7))))),
    ] {
        let endpoint = Type::Workload(endpoint("web", ip(1), 8080));
        let state = state([bound(waypoint), endpoint].into_iter().chain(replica));
        let error = state.route(None, socket(VIP, 80), &[]).unwrap_err();
        assert_eq!(error.reason(), WAYPOINT_UNREACHABLE, "{error}");
        assert_eq!(error.service().unwrap().name, "web");
    }
}

#[test]
fn tried_replica_is_excluded() {
    let replicas = [replica("waypoint-1", ip(7)), replica("waypoint-2", ip(8))];
    let state = state([bound(by_name())].into_iter().chain(replicas));
    let first = state.route(None, socket(VIP, 80), &[]).unwrap();
    assert!(first.others);
    let tried = [Arc::clone(&first.workload.unwrap().uid)];
    let second = state.route(None, socket(VIP, 80), &tried).unwrap();
    assert_ne!(second.hbone, first.hbone);
    assert!(!second.others);
}

#[test]
fn bound_workload_uses_waypoint_with_its_address() {
    let bound = Type::Workload(WireWorkload {
        waypoint: Some(by_name()),
        ..workload("web", ip(1))
    });
    let state = state([bound, replica("waypoint-1", ip(7))]);
    let route = state.route(None, socket(ip(1), 8080), &[]).unwrap();
    assert_eq!(route.target, socket(ip(1), 8080));
    assert_eq!(route.hbone, Some(socket(ip(7), 15008)));
}

#[test]
fn a_waypoint_may_be_named_by_its_address() {
    let by_address = GatewayAddress {
        destination: Some(Destination::Address(NetworkAddress {
            address: ip(7).to_vec(),
            ..NetworkAddress::default()
        })),
        hbone_mtls_port: 0,
    };
    let state = state([bound(by_address), replica("waypoint-1", ip(7))]);
    let route = state.route(None, socket(VIP, 80), &[]).unwrap();
    assert_eq!(route.hbone, Some(socket(ip(7), PORT_HBONE)));
}

#[test]
fn passthrough_service_does_not_bypass_its_waypoint() {
    let passthrough = |waypoint| {
        Type::Service(WireService {
            waypoint,
            load_balancing: Some(LoadBalancing {
                mode: load_balancing::Mode::Passthrough.into(),
                ..LoadBalancing::default()
            }),
            ..service()
        })
    };
    let unbound = state([passthrough(None)]);
    assert_eq!(
        unbound.route(None, socket(VIP, 80), &[]).unwrap().target,
        socket(VIP, 80)
    );
    let bound = state([passthrough(Some(by_name()))]);
    let error = bound.route(None, socket(VIP, 80), &[]).unwrap_err();
    assert_eq!(error.reason(), WAYPOINT_UNREACHABLE);
}

#[test]
fn unreachable_replica_is_avoided() {
    let replicas = [replica("waypoint-1", ip(7)), replica("waypoint-2", ip(8))];
    let state = state([bound(by_name())].into_iter().chain(replicas));
    let route = |tried: &[_]| state.route(None, socket(VIP, 80), tried).unwrap();
    let dead = route(&[]);
    dead.in_use.as_ref().unwrap().failed();
    let others: Vec<_> = (0..50).map(|_| route(&[])).collect();
    assert!(others.iter().all(|other| other.hbone != dead.hbone));
    // It is still better than none.
    let live = Arc::clone(&others[0].workload.as_ref().unwrap().uid);
    assert_eq!(route(&[live]).hbone, dead.hbone);
    // There is news of it.
    let back = [replica("waypoint-1", ip(7)), replica("waypoint-2", ip(8))].map(set);
    state.apply_addresses(&[], back);
    let once_more: Vec<_> = (0..50).map(|_| route(&[])).collect();
    assert!(once_more.iter().any(|route| route.hbone == dead.hbone));
}
