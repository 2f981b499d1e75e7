use ambit_wire::workload::EndpointHealth;

use super::*;

pub(super) fn replica(namespace: &str, name: &str, ready: bool) -> Value {
    let ip = format!("10.9.0.{}", name.trim_start_matches('w'));
    let pod = with(pod(name, &ip), "/metadata/namespace", json!(namespace));
    let pod = with(pod, "/metadata/uid", json!(format!("u-{namespace}-{name}")));
    let pod = with(pod, "/spec/serviceAccountName", json!("waypoint"));
    let pod = with(
        pod,
        "/metadata/labels",
        json!({"ambit.dev/waypoint": "waypoint", "istio.io/dataplane-mode": "none"}),
    );
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "waypoint-1", "uid": "set-waypoint", "controller": true}]);
    let pod = with(pod, "/metadata/ownerReferences", owner);
    with(
        pod,
        "/status/conditions/0/status",
        json!(if ready { "True" } else { "False" }),
    )
}

fn pod_of(namespace: &str, name: &str, ip: &str) -> Value {
    let pod = with(pod(name, ip), "/metadata/namespace", json!(namespace));
    marked(with(pod, "/metadata/uid", json!(format!("u-{namespace}-{name}"))))
}

#[test]
fn two_namespaces_of_25_services_and_250_pods_are_100_configurations() {
    let mut world = World::enrolled();
    world.namespace("bank", Some("ambient"));
    for (n, namespace) in ["shop", "bank"].into_iter().enumerate() {
        for service in 0..25 {
            world.web_service(
                namespace,
                &format!("s{service}"),
                &format!("10.96.{n}.{service}"),
                json!({}),
            );
            let names: Vec<String> = (0..10).map(|pod| format!("s{service}-{pod}")).collect();
            for (pod, name) in names.iter().enumerate() {
                world.pod(&pod_of(namespace, name, &format!("10.{n}.{service}.{pod}")));
            }
            world.endpoints(
                namespace,
                &format!("s{service}"),
                &names.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
        world.namespace_labels(namespace, use_waypoint("waypoint"));
        world.waypoint(namespace, "waypoint", true);
        for name in ["w1", "w2"] {
            world.pod(&replica(namespace, name, true));
        }
    }
    world.settle();
    assert_eq!(world.index.configurations(), 100);
    // What is counted is what is sent.
    assert_eq!(world.sent("waypoint").services.len(), 25);
    assert_eq!(world.sent("waypoint").workloads.len(), 250);
    assert_eq!(world.summary("waypoint").unwrap().services, 25);
}

#[test]
fn a_waypoint_is_sent_what_it_serves_and_nothing_of_what_is_elsewhere() {
    let mut world = World::protected();
    world.web_service("shop", "free", "10.96.0.2", json!({}));
    world.pod(&marked(pod("f", "10.0.0.2")));
    world.endpoints("shop", "free", &["f", "a"]);
    world.namespace("other", Some("ambient"));
    for n in 0..50 {
        world.web_service("other", &format!("s{n}"), &format!("10.97.0.{n}"), json!({}));
    }
    assert_eq!(world.served("waypoint"), ["web"]);
    let sent = world.sent("waypoint");
    let workloads: Vec<_> = sent.workloads.keys().collect();
    assert_eq!(workloads, ["Kubernetes//Pod/shop/a"]);
    let workload = Workload::decode(sent.workloads["Kubernetes//Pod/shop/a"].as_slice()).unwrap();
    // Of its Services, those that it serves; and no guard: that is against its clients.
    let services: Vec<_> = workload.services.keys().collect();
    assert_eq!(services, ["shop/web.shop.svc.cluster.local"]);
    assert!(workload.authorization_policies.is_empty() && workload.waypoint.is_none());
    assert_eq!(
        workload.tunnel_protocol(),
        ambit_wire::workload::TunnelProtocol::Hbone
    );
    assert_eq!(sent.policies.keys().collect::<Vec<_>>(), ["shop/orders"]);
    let service = &world.services_of("waypoint")[0];
    assert_eq!(service.addresses, [vec![10, 96, 0, 1]]);
    assert_eq!(
        (service.ports[0].port, service.ports[0].protocol()),
        (80, ambit_wire::workload::AppProtocol::Http11)
    );
    assert_eq!(service.authorization, ["shop/orders"]);
}

#[test]
fn a_thousand_changes_elsewhere_tell_a_waypoint_nothing() {
    let mut world = World::protected();
    world.namespace("other", Some("ambient"));
    for n in 0..250 {
        let ip = format!("10.97.0.{n}");
        world.web_service("other", &format!("s{n}"), &ip, json!({}));
        assert!(world.told.is_empty() && !world.last.is_empty());
        world.pod(&pod_of("other", &format!("p{n}"), &format!("10.98.0.{n}")));
        assert!(world.told.is_empty() && !world.last.is_empty());
        world.endpoints("other", &format!("s{n}"), &[&format!("p{n}")]);
        assert!(world.told.is_empty() && !world.last.is_empty());
        world.ambient(
            "other",
            json!({"authorization": [{"name": format!("r{n}"), "action": "Deny", "ports": [80]}]}),
        );
        assert!(world.told.is_empty() && !world.last.is_empty());
        world.settle();
    }
    // Nor does another namespace's waypoint.
    world.namespace_labels("other", use_waypoint("waypoint"));
    assert_eq!(world.told, [Key::new("other", "waypoint")]);
    // Its own endpoints do.
    world.pod(&with(
        marked(pod("a", "10.0.0.1")),
        "/status/conditions/0/status",
        json!("False"),
    ));
    assert_eq!(world.told, [Key::new("shop", "waypoint")]);
    // What changes nothing of it does not.
    world.pod(&marked(pod("unrelated", "10.0.0.9")));
    assert!(world.told.is_empty());
}

/// What keeps others away is not sent to a waypoint, only that there is some: plaintext would be refused as soon as the pod is captured.
#[test]
fn a_waypoint_is_told_which_pods_take_identities_only() {
    let told = |world: &World| {
        let workload = &world.sent("waypoint").workloads["Kubernetes//Pod/shop/a"];
        Workload::decode(workload.as_slice()).unwrap().identities_only
    };
    // A guard.
    let mut world = World::protected();
    world.pod(&pod("a", "10.0.0.1"));
    assert!(told(&world));
    // Not to be captured at all.
    let out = json!({"istio.io/dataplane-mode": "none"});
    world.pod(&with(pod("a", "10.0.0.1"), "/metadata/labels", out));
    assert!(!told(&world));
    // Strict, though nothing guards it.
    let mut world = World::shop();
    world.policy("slow", json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "timeouts": {"request": "5s"}}));
    world.waypoint("shop", "waypoint", true);
    world.settle();
    world.pod(&pod("a", "10.0.0.1"));
    assert!(!told(&world));
    world.mesh(json!({"mtls": {"mode": "Strict"}}));
    assert!(told(&world));
    world.ambient("shop", json!({"mtls": {"mode": "Permissive"}}));
    assert!(!told(&world));
    world.ambient(
        "shop",
        json!({"mtls": {"mode": "Permissive", "ports": [{"port": 8080, "mode": "Strict"}]}}),
    );
    assert!(told(&world));
}

#[test]
fn replicas_that_are_ready_and_those_on_their_way_out() {
    let mut world = World::protected();
    world.pod(&replica("shop", "w1", true));
    world.pod(&replica("shop", "w2", false));
    world.pod(&with(
        replica("shop", "w3", true),
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:00:00Z"),
    ));
    // A pod that only says so.
    world.pod(&with(
        replica("shop", "w4", true),
        "/spec/serviceAccountName",
        json!("cart"),
    ));
    // And some that belong to no Deployment of the operator's.
    world.pod(&with(
        replica("shop", "w5", true),
        "/metadata/ownerReferences",
        json!([]),
    ));
    let set = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "waypoint-1", "uid": "another", "controller": true}]);
    world.pod(&with(
        replica("shop", "w6", true),
        "/metadata/ownerReferences",
        set,
    ));
    let summary = world.summary("waypoint").unwrap();
    let pods: Vec<_> = summary.pods.iter().map(|p| (p.name.as_str(), p.ready)).collect();
    assert_eq!(pods, [("w1", true), ("w2", false), ("w3", false)]);
    assert_eq!(summary.ready(), 1);
    // Replicas are not captured, nor bound.
    let workload = world.workload("w1").unwrap();
    assert!(workload.waypoint.is_none() && workload.authorization_policies.is_empty());
    // While it drains, its pods still show, also when the garbage collector takes their ReplicaSet first.
    world.index.set_replica_set(&Key::new("shop", "waypoint-1"), None);
    world.delete_policy("orders");
    world.delete_service("waypoint");
    world.settle();
    let summary = world.summary("waypoint").unwrap();
    assert!(!summary.desired && !summary.service && summary.pods.len() == 3);
    world.taken_down("waypoint");
    assert!(world.waypoints.is_empty() && world.summary("waypoint").is_none());
}

#[test]
fn settings_follow_the_mesh() {
    let mut world = World::protected();
    world.mesh(json!({
        "trustDomain": "example.org", "telemetry": {"accessLog": "Disabled"},
    }));
    let settings = wire::Settings::decode(world.sent("waypoint").settings["waypoint"].as_slice()).unwrap();
    assert_eq!(
        (settings.namespace.as_str(), settings.name.as_str()),
        ("shop", "waypoint")
    );
    assert_eq!(settings.trust_domain, "example.org");
    assert!(!settings.access_log);
}

/// The ztunnels' own choice is not made behind a waypoint, so it is sent what that choice is made from.
#[test]
fn a_waypoint_is_sent_all_by_which_endpoints_are_chosen() {
    let mut world = World::protected();
    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.1", "externalIPs": ["203.0.113.9"], "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local", "publishNotReadyAddresses": true,
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }));
    let hints = json!({"forZones": [{"name": "west"}], "forNodes": [{"name": "n1"}]});
    world.slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {
                "addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}, "hints": hints,
                "conditions": {"ready": false, "serving": true, "terminating": true},
            },
            {"addresses": ["192.168.0.1"], "hints": hints, "conditions": {"ready": false}},
        ],
    }));
    let service = &world.services_of("waypoint")[0];
    assert_eq!(service.session_affinity_seconds, 10_800);
    assert_eq!(service.external_addresses[0].address, [203, 0, 113, 9]);
    assert_eq!(service.load_balancing, world.vip("web").unwrap().load_balancing);
    let workloads: Vec<_> = world.sent("waypoint").workloads.values().collect();
    assert_eq!(workloads.len(), 2);
    for bytes in workloads {
        let workload = Workload::decode(bytes.as_slice()).unwrap();
        let list = &workload.services["shop/web.shop.svc.cluster.local"];
        let by_hand = workload.uid.contains("EndpointSlice");
        let health = if by_hand {
            EndpointHealth::NotReady
        } else {
            EndpointHealth::Ready
        };
        assert_eq!(list.health(), health, "{}", workload.uid);
        assert_eq!(
            (&list.for_zones[0], &list.for_nodes[0]),
            (&"west".to_owned(), &"n1".to_owned())
        );
    }
}
