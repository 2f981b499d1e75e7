use super::*;
use ambit_policy::{Connection, Policies, Target};
use security::string_match::MatchType;

pub(super) const WAYPOINT_ID: &str = "cluster.local/ns/shop/sa/waypoint";
pub(super) const CLIENT_ID: &str = "cluster.local/ns/shop/sa/cart";

impl World {
    /// Whether the pod's ztunnel lets a connection in.
    pub(super) fn admits(&self, pod: &str, port: u16, principal: Option<&str>) -> bool {
        let mut policies = Policies::default();
        for authorization in self.authorizations.values() {
            policies.insert(authorization.clone().try_into().unwrap());
        }
        let workload = self.workload(pod).unwrap();
        evaluate(&policies, &workload.authorization_policies, port, principal)
    }

    /// Whether the waypoint lets a connection of its client pass on to the pod, as far as L4 rules go.
    fn passes_on(&self, pod: &str, port: u16, principal: &str) -> bool {
        let sent = self.sent("waypoint");
        let mut policies = Policies::default();
        for bytes in sent.authorizations.values() {
            let authorization = security::Authorization::decode(bytes.as_slice()).unwrap();
            policies.insert(authorization.try_into().unwrap());
        }
        let bytes = &sent.workloads[&format!("Kubernetes//Pod/shop/{pod}")];
        let workload = Workload::decode(bytes.as_slice()).unwrap();
        evaluate(&policies, &workload.authorization_policies, port, Some(principal))
    }
}

fn evaluate(policies: &Policies, named: &[String], port: u16, principal: Option<&str>) -> bool {
    let connection = Connection {
        principal,
        source: "10.0.0.77".parse().unwrap(),
        destination: format!("10.0.0.1:{port}").parse().unwrap(),
    };
    let target = Target {
        namespace: "shop",
        policies: named,
    };
    policies.evaluate(&connection, target).is_allowed()
}

#[test]
fn pods_behind_rules_take_connections_from_the_waypoint_alone() {
    let mut world = World::protected();
    world.pod(&marked(pod("free", "10.0.0.2")));
    assert!(world.authorizations.contains_key("shop/ambit-guard-web"));
    assert_eq!(
        world.workload("a").unwrap().authorization_policies,
        ["shop/ambit-guard-web"]
    );
    assert_eq!(world.target("orders").guarded_pods, Some(1));
    assert!(world.admits("a", 8080, Some(WAYPOINT_ID)));
    assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
    assert!(!world.admits("a", 8080, None), "plaintext");
    // Another port is nothing of the Service's, and another pod neither.
    assert!(world.admits("a", 9090, None));
    assert!(world.admits("free", 8080, Some(CLIENT_ID)));
    // A pod that joins, and one that leaves.
    world.endpoints("shop", "web", &["free"]);
    assert!(!world.admits("free", 8080, Some(CLIENT_ID)));
    assert!(world.admits("a", 8080, Some(CLIENT_ID)));
    // The Service's ports change.
    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80, "targetPort": 9090}]},
    }));
    assert!(!world.admits("free", 9090, Some(CLIENT_ID)));
    assert!(
        !world.admits("free", 8080, Some(CLIENT_ID)),
        "endpoints are said to be at 8080 still"
    );
    world.slice(slice("web", "free", 9090));
    assert!(world.admits("free", 8080, Some(CLIENT_ID)) && !world.admits("free", 9090, Some(CLIENT_ID)));
}

/// The one slice of a Service with the port `http`.
fn slice(service: &str, pod: &str, port: u16) -> Value {
    json!({
        "metadata": {
            "name": format!("{service}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": pod}}],
    })
}

#[test]
fn ports_of_slices_kept_by_hand_are_guarded() {
    let mut world = World::protected();
    world.slice(slice("web", "a", 7070));
    assert!(!world.admits("a", 7070, Some(CLIENT_ID)) && world.admits("a", 7070, Some(WAYPOINT_ID)));
    assert!(world.admits("a", 9090, Some(CLIENT_ID)));
}

#[test]
fn a_pod_of_two_waypoints_takes_connections_from_both() {
    const EDGE_ID: &str = "cluster.local/ns/shop/sa/edge";
    let mut world = World::protected();
    world.waypoint("shop", "edge", true);
    world.web_service("shop", "public", "10.96.0.2", use_waypoint("edge"));
    world.endpoints("shop", "public", &["a"]);
    world.policy("all", everywhere());
    world.settle();
    assert_eq!(
        world.bound("public").as_deref(),
        Some("shop/edge.shop.svc.cluster.local")
    );
    for waypoint in [WAYPOINT_ID, EDGE_ID] {
        assert!(world.admits("a", 8080, Some(waypoint)), "{waypoint}");
    }
    assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
    // Its own address is a third way.
    world.delete_policy("orders");
    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": use_waypoint("edge")},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }));
    world.namespace_labels("shop", json!({"istio.io/waypoint-for": "all"}));
    world.settle();
    let workload = world.workload("a").unwrap();
    assert!(
        workload.waypoint.is_some(),
        "{:?}",
        workload.authorization_policies
    );
    for waypoint in [WAYPOINT_ID, EDGE_ID] {
        assert!(world.admits("a", 8080, Some(waypoint)), "{waypoint}");
    }
    assert!(!world.admits("a", 8080, Some(CLIENT_ID)) && !world.admits("a", 8080, None));
    // A waypoint that has nothing to do with the pod.
    world.waypoint("shop", "other", true);
    world.web_service("shop", "api", "10.96.0.3", use_waypoint("other"));
    world.settle();
    assert!(!world.admits("a", 8080, Some("cluster.local/ns/shop/sa/other")));
}

#[test]
fn rules_for_a_service_open_none_of_the_addresses_that_the_namespaces_rules_close() {
    let closed = |world: &World, pod: &str| {
        let callers = [Some(CLIENT_ID), None];
        callers.into_iter().all(|caller| {
            let ports = [8080, 9090].into_iter();
            ports.clone().all(|port| !world.admits(pod, port, caller))
        })
    };
    let own = |world: &World, pod: &str| world.workload(pod).unwrap().waypoint.is_some();
    let selecting = |ip: &str| {
        json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "clusterIP": ip, "selector": {"tier": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
            },
        })
    };
    for (ways, ip, stays_bound) in [
        ("all", "10.96.0.1", false),
        // No waypoint can enforce the Service's rules, so the pods are reached as the namespace's say.
        ("workload", "10.96.0.1", true),
        ("all", "None", true),
    ] {
        let mut world = World::shop();
        world.namespace_labels("shop", json!({"istio.io/waypoint-for": ways}));
        world.service(selecting(ip));
        world.policy("all", everywhere());
        world.waypoint("shop", "waypoint", true);
        world.settle();
        assert!(own(&world, "a") && closed(&world, "a"), "{ways} {ip}");
        world.policy("orders", orders());
        world.settle();
        assert_eq!(own(&world, "a"), stays_bound, "{ways} {ip}");
        assert!(closed(&world, "a"), "{ways} {ip}");
        assert!(world.admits("a", 8080, Some(WAYPOINT_ID)), "{ways} {ip}");
        // One that the Service does not list yet.
        world.pod(&marked(with(
            pod("b", "10.0.0.2"),
            "/metadata/labels/tier",
            json!("web"),
        )));
        assert_eq!(own(&world, "b"), stays_bound, "{ways} {ip}");
        assert!(closed(&world, "b"), "{ways} {ip}");
    }
}

#[test]
fn named_ports_are_guarded_where_each_pod_has_them() {
    let mut world = World::protected();
    world.service(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }));
    world.pod(&marked(pod("b", "10.0.0.2")));
    world.slice(json!({
        "metadata": {"name": "web-2", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 9090}],
        "endpoints": [{"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}}],
    }));
    assert!(!world.admits("a", 8080, None) && world.admits("a", 9090, None));
    assert!(!world.admits("b", 9090, None) && world.admits("b", 8080, None));
}

#[test]
fn a_pod_is_guarded_before_it_is_listed() {
    let http = json!([{"name": "http", "containerPort": 8080}]);
    for (target, declared, other_port_is_open) in [
        (json!(8080), json!([]), true),
        (json!("http"), http, true),
        (json!("http"), json!([]), false),
    ] {
        let mut world = World::protected();
        world.service(tier(&target));
        let of_tier = |name: &str, ip: &str| {
            let pod = with(pod(name, ip), "/metadata/labels/tier", json!("web"));
            marked(with(pod, "/spec/containers/0/ports", declared.clone()))
        };
        world.pod(&of_tier("b", "10.0.0.2"));
        world.pod(&marked(pod("other", "10.0.0.3")));
        assert!(!world.admits("b", 8080, None));
        assert_eq!(
            world.admits("b", 9090, None),
            other_port_is_open,
            "where the port is yet to be known"
        );
        assert!(world.admits("other", 8080, None));
        world.endpoints("shop", "web", &["a", "b"]);
        assert!(!world.admits("b", 8080, None) && world.admits("b", 9090, None));
        // Another Service may list it first.
        world.web_service("shop", "metrics", "10.96.0.2", json!({}));
        world.pod(&of_tier("c", "10.0.0.4"));
        world.endpoints("shop", "metrics", &["c"]);
        assert!(!world.admits("c", 8080, None));
    }
}

/// Service `web`, for the pods labelled `tier: web`.
fn tier(target: &Value) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.1", "selector": {"tier": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": target}],
        },
    })
}

#[test]
fn a_new_service_closes_of_running_pods_the_port_that_its_name_stands_for() {
    let port = |name: &str, port: u16| json!({"name": name, "containerPort": port});
    let udp = json!({"name": "http", "containerPort": 5353, "protocol": "UDP"});
    let containers = |first: Value, second: Value| json!({"containers": [{"name": "c", "ports": first}, {"name": "d", "ports": second}]});
    let init = |policy: Value| {
        let init = json!({"name": "i", "ports": [port("http", 7070)], "restartPolicy": policy});
        json!({"containers": [{"name": "c"}], "initContainers": [init]})
    };
    for (ports, closed) in [
        (
            containers(json!([port("http", 8080), port("metrics", 9090)]), json!([])),
            Some(8080),
        ),
        (
            containers(json!([port("metrics", 9090), udp]), json!([port("http", 8080)])),
            Some(8080),
        ),
        (
            containers(json!([port("http", 8080)]), json!([port("http", 7070)])),
            Some(8080),
        ),
        (init(json!("Always")), Some(7070)),
        // One that has ended listens no more: nobody declares the port.
        (init(Value::Null), None),
    ] {
        let mut world = World::shop();
        world.policy("all", everywhere());
        world.waypoint("shop", "waypoint", true);
        world.delete_service("web");
        let mut running = marked(with(pod("b", "10.0.0.2"), "/metadata/labels/tier", json!("web")));
        for (field, value) in ports.as_object().unwrap() {
            running["spec"][field] = value.clone();
        }
        world.pod(&running);
        world.settle();
        let all = [5353, 7070, 8080, 9090];
        assert!(all.iter().all(|p| world.admits("b", *p, Some(CLIENT_ID))));
        world.service(tier(&json!("http")));
        for port in all {
            let expected = closed.is_some_and(|closed| closed != port);
            assert_eq!(
                world.admits("b", port, Some(CLIENT_ID)),
                expected,
                "{port} {ports}"
            );
            assert!(world.admits("b", port, Some(WAYPOINT_ID)));
        }
        let Some(closed) = closed else { continue };
        // When it is listed, nothing changes.
        let guards = world.workload("b").unwrap().authorization_policies.clone();
        world.slice(slice("web", "b", closed));
        assert_eq!(world.workload("b").unwrap().authorization_policies, guards);
    }
}

#[test]
fn a_pod_on_its_way_out_stays_guarded() {
    let mut world = World::protected();
    world.slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{
            "addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"},
            "conditions": {"ready": false, "serving": false, "terminating": true},
        }],
    }));
    assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
}

#[test]
fn without_rules_that_decide_nothing_is_closed() {
    let mut world = World::protected();
    world.policy(
        "orders",
        json!({"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "1s"}}),
    );
    assert!(world.admits("a", 8080, None));
    assert_eq!(world.target("orders").guarded_pods, None);
    let rule = json!({"name": "r", "action": "Deny", "mode": "Audit", "methods": ["GET"]});
    world.policy("orders", with(orders(), "/authorization", json!([rule])));
    assert!(world.admits("a", 8080, None));
    assert_eq!(world.target("orders").guarded_pods, None);
    assert!(!world.services_of("waypoint")[0].authorization.is_empty());
    // A second one that decides.
    world.policy("second", orders());
    assert!(!world.admits("a", 8080, None));
}

#[test]
fn pods_that_are_not_captured_are_not_counted_as_guarded() {
    let mut world = World::protected();
    let out = with(
        pod("b", "10.0.0.2"),
        "/metadata/labels/istio.io~1dataplane-mode",
        json!("none"),
    );
    world.pod(&out);
    world.pod(&pod("c", "10.0.0.3"));
    world.endpoints("shop", "web", &["a", "b", "c"]);
    let target = world.target("orders");
    assert_eq!(target.guarded_pods, Some(1));
    assert!(
        target.programmed.message.contains("2 pods"),
        "{}",
        target.programmed.message
    );
    // It is guarded from the moment on that it is captured.
    assert!(!world.admits("c", 8080, None));
    world.slice(json!({
        "metadata": {"name": "by-hand", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.9"]}, {"addresses": ["10.0.0.10"]}],
    }));
    let message = world.target("orders").programmed.message;
    assert!(
        message.ends_with("; nothing guards 2 endpoints, since their EndpointSlice names no pods"),
        "{message}"
    );
}

#[test]
fn l4_rules_are_about_the_clients_of_a_waypoint() {
    let mut world = World::protected();
    let cases = [
        // (action, from, whether the client passes)
        ("Allow", json!([{"principals": [CLIENT_ID]}]), true),
        (
            "Allow",
            json!([{"principals": ["cluster.local/ns/bank/sa/teller"]}]),
            false,
        ),
        ("Deny", json!([{"namespaces": ["shop"]}]), false),
        (
            "Deny",
            json!([{"ipBlocks": ["10.0.0.0/8"]}, {"namespaces": ["bank"]}]),
            true,
        ),
    ];
    for (action, from, passes) in cases {
        for selecting in [false, true] {
            let mut rule = json!({"name": "r", "action": action, "from": from});
            if selecting {
                rule["podSelector"] = json!({"matchLabels": {"app": "a"}});
            }
            world.ambient("shop", json!({"authorization": [rule]}));
            world.settle();
            assert!(world.admits("a", 8080, Some(WAYPOINT_ID)), "{action} {from}");
            // The last case is about addresses, and the waypoint is told its client's.
            let expected = passes && !from.to_string().contains("ipBlocks");
            assert_eq!(world.passes_on("a", 8080, CLIENT_ID), expected, "{action} {from}");
        }
    }
    // What is not about callers holds at both.
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Deny", "ports": [8080]}]}),
    );
    assert!(!world.admits("a", 8080, Some(WAYPOINT_ID)) && !world.passes_on("a", 8080, CLIENT_ID));
    // A waypoint that was asked for and not made is anybody's name.
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("cart"));
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Deny", "from": [{"principals": [CLIENT_ID]}]}]}),
    );
    assert!(!world.admits("a", 9090, Some(CLIENT_ID)));
    // Without a waypoint rules are as they are written.
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Allow", "from": [{"principals": [CLIENT_ID]}]}]}),
    );
    assert_eq!(
        world.authorizations["shop/r"].rules[0].clauses[0].matches.len(),
        2
    );
    world.delete_policy("orders");
    world.settle();
    world.taken_down("waypoint");
    let matches = &world.authorizations["shop/r"].rules[0].clauses[0].matches;
    assert_eq!(matches.len(), 1);
    assert_eq!(
        matches[0].principals[0].match_type,
        Some(MatchType::Exact(CLIENT_ID.to_owned()))
    );
}

#[test]
fn a_waypoint_gets_the_selecting_rules_of_its_own_endpoints() {
    let mut world = World::protected();
    world.pod(&marked(pod("free", "10.0.0.2")));
    world.mesh(json!({"mtls": {"mode": "Strict"}}));
    let selecting = |name: &str, app: &str| json!({"name": name, "action": "Deny", "ports": [1], "podSelector": {"matchLabels": {"app": app}}});
    world.ambient("shop", json!({"authorization": [selecting("for-a", "a"), selecting("for-free", "free"), {"name": "all", "action": "Deny", "ports": [1]}]}));
    let names: Vec<_> = world.sent("waypoint").authorizations.keys().cloned().collect();
    assert_eq!(names, ["shop/all", "shop/selecting::for-a"]);
    let bytes = &world.sent("waypoint").workloads["Kubernetes//Pod/shop/a"];
    assert_eq!(
        Workload::decode(bytes.as_slice()).unwrap().authorization_policies,
        ["shop/selecting::for-a"]
    );
    assert!(
        world
            .workload("a")
            .unwrap()
            .authorization_policies
            .contains(&"ambit-system/strict-mtls".to_owned())
    );
}

#[test]
fn a_rule_cannot_take_the_place_of_a_guard() {
    let mut world = World::protected();
    let rule = json!({"name": "ambit-guard-web", "action": "Deny", "ports": [1]});
    let selecting = json!({"name": "ambit-guard-web", "action": "Deny", "ports": [1], "podSelector": {"matchLabels": {"app": "a"}}});
    for rule in [rule, selecting] {
        world.ambient("shop", json!({"authorization": [rule]}));
        assert!(!world.admits("a", 8080, None) && !world.admits("a", 1, None));
        world.ambient("shop", json!({}));
        assert!(!world.admits("a", 8080, None) && world.admits("a", 1, None));
    }
}
