use super::*;
use ambit_wire::workload::{
    AppProtocol, EndpointHealth, IpFamilies, NetworkMode, TunnelProtocol, load_balancing,
};

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
        json!({"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP"}),
    ));
    assert_eq!(world.vip("web").unwrap().session_affinity_seconds, 10_800);
    world.service(service(
        "web",
        json!({
            "clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        }),
    ));
    assert_eq!(world.vip("web").unwrap().session_affinity_seconds, 10);
}

/// As the controller writes them for `trafficDistribution`; kube-proxy reads nothing else either.
#[test]
fn hints_of_slices_and_the_zones_of_nodes_are_sent() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "trafficDistribution": "PreferSameZone"}),
    ));
    world.pod(&pod("a", "10.0.0.1"));
    let hints = json!({"forZones": [{"name": "west"}], "forNodes": [{"name": "n1"}]});
    let mut hinted = endpoint("a", true, false);
    hinted["hints"] = hints.clone();
    let bare = json!({"addresses": ["192.168.0.1"], "conditions": {"ready": true}, "hints": hints});
    world.slice(slice(
        "web",
        "web-1",
        json!([{"name": "", "port": 80}]),
        json!([hinted, bare]),
    ));
    let bare = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/web-1/192.168.0.1";
    let Some(address::Type::Workload(bare)) = &world.addresses[bare].r#type else {
        panic!("no workload")
    };
    for workload in [bare, world.workload("a").unwrap()] {
        let list = &workload.services["shop/web.shop.svc.cluster.local"];
        assert_eq!(
            (&*list.for_zones, &*list.for_nodes),
            (&["west".to_owned()][..], &["n1".to_owned()][..])
        );
    }
    assert_eq!(world.workload("a").unwrap().locality, None);
    let node: k8s_openapi::api::core::v1::Node =
        object(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "west"}}}));
    world.index.set_node("n1", Some(&node));
    world.flush();
    assert_eq!(
        world.workload("a").unwrap().locality.as_ref().unwrap().zone,
        "west"
    );
    world.index.set_node("n1", Some(&node));
    world.flush();
    assert!(world.last.is_empty());
}

#[test]
fn an_endpoint_is_as_ready_as_its_slice_says() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}),
    ));
    let unready = |pod| {
        with(
            pod,
            "/status/conditions",
            json!([{"type": "Ready", "status": "False"}]),
        )
    };
    world.pod(&pod("a", "10.0.0.1"));
    let health = |world: &mut World, ready: bool, terminating: bool| {
        world.slice(slice(
            "web",
            "web-1",
            json!([{"name": "", "port": 80}]),
            json!([endpoint("a", ready, terminating)]),
        ));
        let list = world
            .workload("a")
            .unwrap()
            .services
            .get("shop/web.shop.svc.cluster.local");
        list.map(|list| list.health())
    };
    assert_eq!(health(&mut world, true, false), Some(EndpointHealth::AsWorkload));
    assert_eq!(health(&mut world, false, false), Some(EndpointHealth::NotReady));
    world.pod(&unready(pod("a", "10.0.0.1")));
    assert_eq!(health(&mut world, false, false), Some(EndpointHealth::AsWorkload));
    // As with `publishNotReadyAddresses`, or by hand.
    assert_eq!(health(&mut world, true, false), Some(EndpointHealth::Ready));
    // On its way out, with nobody to take its place.
    assert_eq!(health(&mut world, false, true), Some(EndpointHealth::Ready));
    // What Kubernetes keeps has yet to follow the pod.
    let mut kept = slice(
        "web",
        "web-1",
        json!([{"name": "", "port": 80}]),
        json!([endpoint("a", true, false)]),
    );
    kept["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpointslice-controller.k8s.io");
    world.slice(kept);
    let list = &world.workload("a").unwrap().services["shop/web.shop.svc.cluster.local"];
    assert_eq!(list.health(), EndpointHealth::AsWorkload);
}

fn external(world: &World, name: &str) -> Vec<(Vec<u8>, Vec<u32>)> {
    let found = world.vip(name).unwrap().external_addresses.iter();
    found.map(|e| (e.address.clone(), e.ports.clone())).collect()
}

fn outside(name: &str, spec: Value, ingress: Value, created: &str) -> Value {
    let mut spec = spec;
    spec["clusterIP"] = json!("10.96.0.1");
    spec["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 443}]);
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
        "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
    })
}

#[test]
fn external_addresses_lead_to_the_service_as_kube_proxy_has_it() {
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let mut world = World::enrolled();
    let ingress = json!([
        {"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": "203.0.113.2"},
        {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "lb.example.com"},
    ]);
    let spec =
        json!({"type": "LoadBalancer", "externalIPs": ["203.0.113.9"], "externalTrafficPolicy": "Local"});
    world.service(outside("web", spec, ingress.clone(), new));
    let ports = vec![80, 443];
    let of = |last| (vec![203, 0, 113, last], ports.clone());
    assert_eq!(external(&world, "web"), [of(1), of(2), of(9)]);
    assert_eq!(world.index.namespace_summary("shop").services, []);
    // The oldest has an address that more than one claims.
    world.service(outside(
        "first",
        json!({"externalIPs": ["203.0.113.9"]}),
        json!([]),
        old,
    ));
    assert_eq!(external(&world, "first"), [of(9)]);
    assert_eq!(external(&world, "web"), [of(1), of(2)]);
    let findings = world.index.namespace_summary("shop").services;
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].service.as_str(), findings[0].field.as_str()),
        ("web", "spec.externalIPs, status.loadBalancer")
    );
    assert!(
        findings[0].message.contains("port 80 of 203.0.113.9"),
        "{}",
        findings[0].message
    );
    world.index.set_service(&Key::new("shop", "first"), None);
    world.flush();
    assert_eq!(external(&world, "web").len(), 3);
    // Ranges are kube-proxy's to check.
    let spec = json!({"type": "LoadBalancer", "externalIPs": ["203.0.113.9"], "loadBalancerSourceRanges": ["10.0.0.0/8"]});
    world.service(outside("web", spec, ingress, new));
    assert_eq!(external(&world, "web"), [of(9)]);
    let findings = world.index.namespace_summary("shop").services;
    assert_eq!(findings[0].field, "spec.loadBalancerSourceRanges");
}

#[test]
fn a_service_of_another_proxy_is_left_to_it() {
    let mut world = World::enrolled();
    let mut other = outside(
        "web",
        json!({"externalIPs": ["203.0.113.9"]}),
        json!([]),
        "2026-01-01T00:00:00Z",
    );
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    world.service(other);
    let vip = world.vip("web").unwrap();
    assert!(vip.addresses.is_empty() && vip.external_addresses.is_empty());
    let findings = world.index.namespace_summary("shop").services;
    assert!(findings[0].field.contains("service-proxy-name"));
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

/// 300 endpoints in three slices; `ready` says which are ready, `leaving` which are on their way out.
fn many_endpoints(
    world: &mut World,
    part: usize,
    ready: impl Fn(usize) -> bool,
    leaving: impl Fn(usize) -> bool,
) {
    let endpoints = (part * 100..part * 100 + 100).map(|n| endpoint(&format!("p{n}"), ready(n), leaving(n)));
    world.slice(slice(
        "web",
        &format!("web-{part}"),
        json!([{"name": "", "port": 8080}]),
        endpoints.collect(),
    ));
}

/// The cost of an event of an EndpointSlice is that of the endpoints that differ, not of all of the Service.
#[test]
fn slice_event_recomputes_the_endpoints_that_differ() {
    let mut world = World::enrolled();
    world.service(service(
        "web",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    for n in 0..300 {
        world.pod(&pod(
            &format!("p{n}"),
            &format!("10.0.{}.{}", n / 200, n % 200 + 1),
        ));
    }
    for part in 0..3 {
        many_endpoints(&mut world, part, |_| true, |_| false);
    }
    many_endpoints(&mut world, 1, |n| n != 150, |_| false);
    assert_eq!(world.last, ["Kubernetes//Pod/shop/p150"]);
    // All others of the slice are ready: the one on its way out takes nothing more, and nothing else depends on it.
    many_endpoints(&mut world, 1, |n| n != 150, |n| n == 150);
    assert_eq!(world.last, ["Kubernetes//Pod/shop/p150"]);
    assert_eq!(ports(&world, "p150"), None);
    for part in [0, 2] {
        many_endpoints(&mut world, part, |_| false, |_| false);
    }
    // The last ready one goes: the one on its way out is used again.
    many_endpoints(&mut world, 1, |n| n != 150 && n != 151, |n| n == 150);
    assert_eq!(world.last, ["Kubernetes//Pod/shop/p151"]);
    many_endpoints(&mut world, 1, |_| false, |n| n == 150);
    assert!(ports(&world, "p150").is_some());
    // One of another slice becomes ready: it is not any more.
    many_endpoints(&mut world, 0, |n| n == 3, |_| false);
    assert_eq!(
        world.last,
        ["Kubernetes//Pod/shop/p150", "Kubernetes//Pod/shop/p3"]
    );
    assert_eq!(ports(&world, "p150"), None);
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
