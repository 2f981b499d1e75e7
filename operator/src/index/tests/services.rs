use super::*;
use ambit_wire::workload::{AppProtocol, IpFamilies, NetworkMode, TunnelProtocol, load_balancing};

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn slice(service: &str, name: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

fn endpoint(pod: &str, ready: bool, terminating: bool) -> Value {
    json!({
        "addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"},
        "conditions": {"ready": ready, "serving": ready || terminating, "terminating": terminating},
    })
}

/// The ports on which pod `name` takes connections for Service `web`.
fn ports(world: &World, name: &str) -> Option<Vec<(u32, u32)>> {
    let list = world
        .workload(name)
        .unwrap()
        .services
        .get("shop/web.shop.svc.cluster.local")?;
    Some(
        list.ports
            .iter()
            .map(|p| (p.service_port, p.target_port))
            .collect(),
    )
}

#[test]
fn a_service_with_every_kind_of_port() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd01::1"], "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
                {"name": "admin", "port": 81, "targetPort": 9000},
                {"name": "same", "port": 82},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        }),
    ));
    let vip = world.vip("web").unwrap();
    assert_eq!(vip.hostname, "web.shop.svc.cluster.local");
    assert_eq!(
        vip.addresses.iter().map(|a| a.address.len()).collect::<Vec<_>>(),
        [4, 16]
    );
    assert_eq!(vip.ip_families(), IpFamilies::Dual);
    let got: Vec<_> = vip
        .ports
        .iter()
        .map(|p| (p.service_port, p.target_port, p.app_protocol()))
        .collect();
    assert_eq!(
        got,
        [
            (80, 0, AppProtocol::Http11),
            (81, 9000, AppProtocol::Unknown),
            (82, 82, AppProtocol::Unknown)
        ]
    );
    assert_eq!(vip.load_balancing, None);

    world.pod(&pod("a", "10.0.0.1"));
    world.slice(slice(
        "web",
        "web-1",
        json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
        json!([endpoint("a", true, false)]),
    ));
    assert_eq!(ports(&world, "a"), Some(vec![(80, 8080), (81, 9000)]));
}

#[test]
fn named_ports_that_differ_by_pod_are_each_pods_own() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": "web"}]}),
    ));
    world.pod(&pod("a", "10.0.0.1"));
    world.pod(&pod("b", "10.0.0.2"));
    world.slice(slice(
        "web",
        "web-1",
        json!([{"name": "", "port": 8080}]),
        json!([endpoint("a", true, false)]),
    ));
    world.slice(slice(
        "web",
        "web-2",
        json!([{"name": "", "port": 9090}]),
        json!([endpoint("b", true, false)]),
    ));
    assert_eq!(ports(&world, "a"), Some(vec![(80, 8080)]));
    assert_eq!(ports(&world, "b"), Some(vec![(80, 9090)]));
}

#[test]
fn headless_and_external_services() {
    let mut world = World::enrolled();
    world.service(service(
        "db",
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 5432}]}),
    ));
    assert!(world.vip("db").unwrap().addresses.is_empty());
    world.service(service(
        "out",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ));
    assert!(world.vip("out").is_none());
    // One that becomes an ExternalName is gone.
    world.service(service(
        "db",
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ));
    assert!(world.vip("db").is_none());
}

#[test]
fn policies_of_a_service() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "internalTrafficPolicy": "Local", "publishNotReadyAddresses": true}),
    ));
    let balancing = world.vip("web").unwrap().load_balancing.clone().unwrap();
    assert_eq!(balancing.mode(), load_balancing::Mode::Strict);
    assert_eq!(
        balancing.routing_preference,
        [i32::from(load_balancing::Scope::Node)]
    );
    assert_eq!(balancing.health_policy(), load_balancing::HealthPolicy::AllowAll);
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "trafficDistribution": "PreferSameNode", "sessionAffinity": "ClientIP"}),
    ));
    let vip = world.vip("web").unwrap();
    assert_eq!(vip.session_affinity_seconds, 10_800);
    let balancing = vip.load_balancing.clone().unwrap();
    assert_eq!(balancing.mode(), load_balancing::Mode::Failover);
    assert_eq!(
        balancing.routing_preference,
        [i32::from(load_balancing::Scope::Node)]
    );
    world.service(service(
        "web",
        json!({
            "clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        }),
    ));
    assert_eq!(world.vip("web").unwrap().session_affinity_seconds, 10);
}

#[test]
fn of_a_local_service_each_node_falls_back_to_its_own_that_is_on_its_way_out() {
    let mut world = World::enrolled();
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "internalTrafficPolicy": "Local"});
    world.service(service("web", spec));
    world.pod(&pod("a", "10.0.0.1"));
    world.pod(&pod("b", "10.0.0.2"));
    let on = |mut endpoint: Value, node: &str| {
        endpoint["nodeName"] = json!(node);
        endpoint
    };
    let mut set = |b: &str| {
        world.slice(slice(
            "web",
            "web-1",
            json!([{"name": "", "port": 80}]),
            json!([
                on(endpoint("a", false, true), "one"),
                on(endpoint("b", true, false), b)
            ]),
        ));
        ports(&world, "a").is_some()
    };
    assert!(set("two"));
    assert!(!set("one"));
}

#[test]
fn a_captured_pod_in_a_slice_kept_by_hand_is_reached_as_that_pod() {
    let mut world = World::enrolled();
    world.service(service(
        "man",
        json!({"clusterIP": "10.96.0.9", "ports": [{"name": "t", "port": 80, "targetPort": 8080}]}),
    ));
    let by_hand = json!([{"addresses": ["10.0.0.7"], "conditions": {"ready": true}}]);
    world.slice(slice(
        "man",
        "man-1",
        json!([{"name": "t", "port": 8080}]),
        by_hand,
    ));
    let bare = |world: &World| -> Vec<_> {
        let found = world
            .addresses
            .iter()
            .filter(|(name, _)| name.contains("EndpointSlice"));
        found
            .map(|(name, address)| match &address.r#type {
                Some(address::Type::Workload(w)) => {
                    (name.clone(), w.tunnel_protocol(), w.service_account.clone())
                }
                _ => panic!("{name} is no workload"),
            })
            .collect()
    };
    let before = bare(&world);
    assert_eq!(before[0].1, TunnelProtocol::None);
    world.pod(&marked(pod("a", "10.0.0.7")));
    let after = bare(&world);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].1, TunnelProtocol::Hbone);
    assert_ne!(
        after[0].0, before[0].0,
        "connections pooled for one are not the other's"
    );
    assert_eq!(after[0].2, world.workload("a").unwrap().service_account);
}

#[test]
fn a_pod_on_its_way_out_serves_only_where_no_other_does() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}),
    ));
    world.pod(&pod("a", "10.0.0.1"));
    world.pod(&pod("b", "10.0.0.2"));
    let set = |world: &mut World, a: Value, b: Value| {
        world.slice(slice(
            "web",
            "web-1",
            json!([{"name": "", "port": 80}]),
            json!([a, b]),
        ));
    };
    set(&mut world, endpoint("a", true, false), endpoint("b", true, false));
    assert!(ports(&world, "a").is_some() && ports(&world, "b").is_some());
    set(&mut world, endpoint("a", false, true), endpoint("b", true, false));
    assert!(ports(&world, "a").is_none() && ports(&world, "b").is_some());
    set(&mut world, endpoint("a", false, true), endpoint("b", false, true));
    assert!(ports(&world, "a").is_some() && ports(&world, "b").is_some());
    // Not ready yet: listed, and unhealthy by its own condition.
    set(
        &mut world,
        endpoint("a", false, false),
        endpoint("b", true, false),
    );
    assert!(ports(&world, "a").is_some());
}

#[test]
fn membership_follows_slices_and_services() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    let ports_of = json!([{"name": "", "port": 80}]);
    world.slice(slice(
        "web",
        "web-1",
        ports_of.clone(),
        json!([endpoint("a", true, false)]),
    ));
    assert!(ports(&world, "a").is_none(), "the Service is not there yet");
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}),
    ));
    assert_eq!(ports(&world, "a"), Some(vec![(80, 80)]));
    // Listed twice, then once.
    world.slice(slice(
        "web",
        "web-2",
        ports_of.clone(),
        json!([endpoint("a", true, false)]),
    ));
    world.slice(slice("web", "web-1", ports_of, json!([])));
    assert!(ports(&world, "a").is_some());
    world.index.set_slice(&Key::new("shop", "web-2"), None);
    world.flush();
    assert!(ports(&world, "a").is_none());
}

#[test]
fn endpoints_that_are_no_pods_are_workloads_too() {
    let mut world = World::enrolled();
    world.service(service(
        "api",
        json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
    ));
    let bare = json!([{"addresses": ["192.168.0.1"], "conditions": {"ready": true}}]);
    world.slice(slice(
        "api",
        "api",
        json!([{"name": "https", "port": 6443}]),
        bare,
    ));
    let name = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/api/192.168.0.1";
    let Some(address::Type::Workload(workload)) = &world.addresses[name].r#type else {
        panic!("no workload")
    };
    assert_eq!(workload.network_mode(), NetworkMode::HostNetwork);
    let list = &workload.services["shop/api.shop.svc.cluster.local"].ports;
    assert_eq!((list[0].service_port, list[0].target_port), (443, 6443));
    world.slice(slice("api", "api", json!([]), json!([])));
    assert!(!world.addresses.contains_key(name));
}
