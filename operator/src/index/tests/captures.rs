use super::*;

#[test]
fn every_pod_of_a_node_is_sent_and_says_why_it_is_left_alone() {
    let mut world = World::enrolled();
    world.pod(&pod("plain", "10.0.0.1"));
    world.pod(&with(
        pod("host", "192.168.0.1"),
        "/spec/hostNetwork",
        json!(true),
    ));
    world.pod(&with(
        pod("out", "10.0.0.2"),
        "/metadata/labels/istio.io~1dataplane-mode",
        json!("none"),
    ));
    world.pod(&with(
        pod("side", "10.0.0.3"),
        "/metadata/annotations/sidecar.istio.io~1status",
        json!("{}"),
    ));
    world.pod(&with(pod("waiting", ""), "/status", json!({"phase": "Pending"})));
    let got: Vec<_> = ["plain", "host", "out", "side", "waiting"]
        .map(|n| world.capture(&format!("u-{n}")).unwrap())
        .map(|c| (c.capture, c.reason.as_str()))
        .into();
    assert_eq!(
        got,
        [
            (true, ""),
            (false, "HostNetwork"),
            (false, "OptedOut"),
            (false, "Sidecar"),
            (true, "")
        ]
    );

    let summary = world.index.namespace_summary("shop");
    assert_eq!(
        (summary.total, summary.captured, summary.pending, summary.excluded),
        (5, 0, 2, 3)
    );
    // Rules are not enforced at those that are left alone; waypoints evaluate them for their clients.
    let waypoint = with(
        pod("w", "10.0.0.9"),
        "/metadata/labels/ambit.dev~1waypoint",
        json!("waypoint"),
    );
    let waypoint = with(
        waypoint,
        "/metadata/labels/istio.io~1dataplane-mode",
        json!("none"),
    );
    let set = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "s", "controller": true}]);
    let waypoint = with(waypoint, "/metadata/ownerReferences", set);
    let entry = Registered {
        deployment: Some("d".to_owned()),
        ..Registered::default()
    };
    world
        .index
        .set_register("shop", BTreeMap::from([("waypoint".to_owned(), entry)]));
    let set = ReplicaSetRecord {
        uid: "s".to_owned(),
        deployment: "d".to_owned(),
    };
    world.index.set_replica_set(&Key::new("shop", "set"), Some(set));
    world.pod(&with(waypoint, "/spec/serviceAccountName", json!("waypoint")));
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Deny", "ports": [1]}]}),
    );
    let summary = world.index.namespace_summary("shop");
    assert_eq!((summary.excluded, summary.rules[0].excluded), (4, 3));
    // Outside of the mesh there is no reason to give.
    world.index.set_ambient("shop", None);
    world.namespace("shop", None);
    assert_eq!(world.capture("u-host").unwrap().reason, "");
    assert_eq!(world.index.namespace_summary("shop").excluded, 0);
}

#[test]
fn a_pod_is_sent_to_its_node_once_it_has_one_and_until_it_ends() {
    let mut world = World::enrolled();
    world.pod(&with(pod("a", "10.0.0.1"), "/spec/nodeName", json!("")));
    assert!(world.captures.is_empty());
    world.pod(&pod("a", "10.0.0.1"));
    let sent = &world.captures[&("n1".to_owned(), "u-a".to_owned())];
    assert_eq!(
        (
            sent.name.as_str(),
            sent.namespace.as_str(),
            sent.service_account.as_str()
        ),
        ("a", "shop", "cart")
    );
    assert_eq!(sent.addresses, ["10.0.0.1"]);
    // The same name again, on another node: a StatefulSet's.
    let again = with(
        with(pod("a", "10.0.0.9"), "/metadata/uid", json!("u-2")),
        "/spec/nodeName",
        json!("n2"),
    );
    world.pod(&again);
    assert_eq!(
        world.captures.keys().cloned().collect::<Vec<_>>(),
        [("n2".to_owned(), "u-2".to_owned())]
    );
    assert!(world.index.pod("u-a").is_none());
    world.pod(&with(again, "/status/phase", json!("Succeeded")));
    assert!(world.captures.is_empty());
}

#[test]
fn ports_the_kubelet_connects_to() {
    let containers = json!([
        {
            "name": "c",
            "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"port": "web", "path": "/"}},
            "livenessProbe": {"tcpSocket": {"port": 9000}},
            "startupProbe": {"grpc": {"port": 9001}},
            "lifecycle": {"postStart": {"httpGet": {"port": 9002}}, "preStop": {"exec": {"command": ["x"]}}},
        },
        {"name": "elsewhere", "livenessProbe": {"httpGet": {"port": 1, "host": "127.0.0.1"}}},
        {"name": "quoted", "livenessProbe": {"httpGet": {"port": "9003"}}},
        {"name": "unknown", "livenessProbe": {"httpGet": {"port": "nowhere"}}},
        {"name": "exec", "livenessProbe": {"exec": {"command": ["x"]}}},
    ]);
    let sidecar =
        json!([{"name": "s", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 9004}}}]);
    let mut world = World::enrolled();
    let value = with(pod("a", "10.0.0.1"), "/spec/containers", containers);
    world.pod(&with(value, "/spec/initContainers", sidecar));
    assert_eq!(
        world.capture("u-a").unwrap().probe_ports,
        [8080, 9000, 9001, 9002, 9003, 9004]
    );
}

#[test]
fn what_failed_is_counted_until_the_pod_is_captured() {
    let mut world = World::enrolled();
    let failed = with(
        pod("a", "10.0.0.1"),
        "/metadata/annotations/ambit.dev~1capture-failure",
        json!("NetnsNotFound: no sandbox: is containerd running?"),
    );
    world.pod(&failed);
    let summary = world.index.namespace_summary("shop");
    assert_eq!(
        summary.failures,
        [PodFailure {
            pod: "a".to_owned(),
            reason: "NetnsNotFound".to_owned(),
            message: "no sandbox: is containerd running?".to_owned(),
        }]
    );
    assert_eq!(world.index.mesh_summary().failing_namespaces, ["shop"]);
    world.pod(&marked(failed));
    let summary = world.index.namespace_summary("shop");
    assert_eq!(
        (summary.captured, summary.failures.len(), summary.pending),
        (1, 0, 0)
    );
    assert_eq!(world.index.mesh_summary().captured, 1);
    // Un-labelled, the mark stays until the node has released it.
    world.namespace("shop", None);
    assert_eq!(world.index.namespace_summary("shop").releasing, 1);
}

/// A node makes mirror pods in any namespace, and they bear what labels and annotations it likes.
#[test]
fn mirror_pods_and_pods_without_a_service_account_have_no_identity() {
    let mut world = World::enrolled();
    let without = |name, ip| with(pod(name, ip), "/spec/serviceAccountName", json!(null));
    let mirror = |p| {
        with(
            p,
            "/metadata/annotations/kubernetes.io~1config.mirror",
            json!("hash"),
        )
    };
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Deny", "ports": [1], "podSelector": {"matchLabels": {"app": "mirror"}}}]}),
    );
    world.pod(&marked(mirror(without("mirror", "10.0.0.1"))));
    world.pod(&mirror(pod("named", "10.0.0.2")));
    world.pod(&marked(without("bare", "10.0.0.3")));
    let got: Vec<_> = ["mirror", "named", "bare"]
        .map(|n| world.capture(&format!("u-{n}")).unwrap())
        .map(|c| (c.capture, c.reason.as_str()))
        .into();
    assert_eq!(
        got,
        [
            (false, "MirrorPod"),
            (false, "MirrorPod"),
            (false, "NoServiceAccount")
        ]
    );
    for name in ["mirror", "bare"] {
        let workload = world.workload(name).unwrap();
        assert_eq!(
            workload.tunnel_protocol,
            ambit_wire::workload::TunnelProtocol::None as i32,
            "{name}"
        );
        assert_eq!(workload.service_account, "", "{name}");
        assert!(workload.authorization_policies.is_empty(), "{name}");
    }
    assert_eq!(world.index.namespace_summary("shop").excluded, 3);
}

/// Whether a namespace that has not been seen is enrolled nobody knows: a node that was told "no" would start the pod in plaintext.
#[test]
fn nothing_is_said_of_a_pod_before_its_namespace_is_seen() {
    let mut world = World::empty();
    world.mesh(json!({}));
    world.pod(&pod("early", "10.0.0.1"));
    assert!(world.captures.is_empty());
    world.namespace("shop", Some("ambient"));
    assert!(world.capture("u-early").unwrap().capture);
}

/// Pods are their users' to write, and statuses and messages to nodes have room for so much.
#[test]
fn what_a_pod_says_of_itself_is_clipped() {
    let mut world = World::enrolled();
    let failed = with(
        pod("a", "10.0.0.1"),
        "/metadata/annotations/ambit.dev~1capture-failure",
        json!(format!("Long: {}", "ä".repeat(100_000))),
    );
    let owner = json!([{"apiVersion": "v1", "kind": "Other", "name": "o".repeat(100_000), "uid": "s", "controller": true}]);
    world.pod(&with(failed.clone(), "/metadata/ownerReferences", owner));
    let failures = world.index.namespace_summary("shop").failures;
    assert!(failures[0].message.len() <= 1024, "{}", failures[0].message.len());
    assert_eq!(world.workload("a").unwrap().workload_name.len(), 253);
    // What was not scheduled nobody tried to capture.
    world.pod(&with(failed, "/spec/nodeName", json!(null)));
    assert!(world.index.namespace_summary("shop").failures.is_empty());
    assert_eq!(world.index.mesh_summary().failed, 0);
}
