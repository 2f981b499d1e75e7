use super::*;
use ambit_wire::workload::{NetworkMode, TunnelProtocol, WorkloadStatus, WorkloadType};

#[test]
fn a_pod_as_a_workload() {
    let mut world = World::enrolled();
    let value = with(
        pod("cart-7d9f-x", "10.0.0.1"),
        "/metadata/labels",
        json!({"app": "cart", "version": "v2", "pod-template-hash": "7d9f"}),
    );
    let owner = json!([{"kind": "ReplicaSet", "name": "cart-7d9f", "controller": true, "apiVersion": "apps/v1", "uid": "r"}]);
    let value = with(value, "/metadata/ownerReferences", owner);
    let value = with(
        value,
        "/status/podIPs",
        json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]),
    );
    world.pod(&value);
    let workload = world.workload("cart-7d9f-x").unwrap();
    assert_eq!(workload.uid, "Kubernetes//Pod/shop/cart-7d9f-x");
    assert_eq!(workload.addresses[0], [10, 0, 0, 1]);
    assert_eq!(workload.addresses[1].len(), 16);
    assert_eq!(
        (workload.node.as_str(), workload.service_account.as_str()),
        ("n1", "cart")
    );
    assert_eq!(
        (workload.workload_name.as_str(), workload.workload_type()),
        ("cart", WorkloadType::Deployment)
    );
    assert_eq!(
        (
            workload.canonical_name.as_str(),
            workload.canonical_revision.as_str()
        ),
        ("cart", "v2")
    );
    assert_eq!(workload.trust_domain, "cluster.local");
    assert_eq!(workload.cluster_id, "Kubernetes");
    assert_eq!(workload.status(), WorkloadStatus::Healthy);
    assert_eq!(workload.network_mode(), NetworkMode::Standard);
}

#[test]
fn hbone_is_said_only_of_pods_with_the_mark() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    assert_eq!(
        world.workload("a").unwrap().tunnel_protocol(),
        TunnelProtocol::None
    );
    world.pod(&marked(pod("a", "10.0.0.1")));
    assert_eq!(
        world.workload("a").unwrap().tunnel_protocol(),
        TunnelProtocol::Hbone
    );
    // One that somebody wrote onto a pod that cannot be captured.
    world.pod(&marked(with(
        pod("host", "192.168.0.1"),
        "/spec/hostNetwork",
        json!(true),
    )));
    assert_eq!(
        world.workload("host").unwrap().tunnel_protocol(),
        TunnelProtocol::None
    );
}

#[test]
fn owners_and_names() {
    let cases = [
        (
            "ReplicaSet",
            "web-5c",
            json!({"pod-template-hash": "5c"}),
            "web",
            WorkloadType::Deployment,
        ),
        ("ReplicaSet", "bare", json!({}), "bare", WorkloadType::Pod),
        (
            "Job",
            "backup-29381040",
            json!({}),
            "backup",
            WorkloadType::Cronjob,
        ),
        ("Job", "migrate-2", json!({}), "migrate-2", WorkloadType::Job),
        ("StatefulSet", "db", json!({}), "db", WorkloadType::Pod),
        ("DaemonSet", "logs", json!({}), "logs", WorkloadType::Pod),
        ("Node", "n1", json!({}), "p", WorkloadType::Pod),
    ];
    for (kind, owner, labels, name, workload_type) in cases {
        let mut world = World::enrolled();
        let owner =
            json!([{"kind": kind, "name": owner, "controller": true, "apiVersion": "v1", "uid": "o"}]);
        let value = with(pod("p", "10.0.0.1"), "/metadata/ownerReferences", owner);
        world.pod(&with(value, "/metadata/labels", labels));
        let workload = world.workload("p").unwrap();
        assert_eq!(
            (workload.workload_name.as_str(), workload.workload_type()),
            (name, workload_type),
            "{kind}"
        );
        assert_eq!(workload.canonical_name, name, "{kind}");
        assert_eq!(workload.canonical_revision, "latest");
    }
}

#[test]
fn canonical_labels_win_in_istios_order() {
    let mut world = World::enrolled();
    let labels = json!({
        "app": "a", "app.kubernetes.io/name": "b", "service.istio.io/canonical-name": "c",
        "version": "1", "app.kubernetes.io/version": "2",
    });
    world.pod(&with(pod("p", "10.0.0.1"), "/metadata/labels", labels));
    let workload = world.workload("p").unwrap();
    assert_eq!(
        (
            workload.canonical_name.as_str(),
            workload.canonical_revision.as_str()
        ),
        ("c", "2")
    );
}

#[test]
fn a_reused_address_is_the_newest_pods() {
    let mut world = World::enrolled();
    let newer = with(
        pod("new", "10.0.0.1"),
        "/metadata/creationTimestamp",
        json!("2026-01-01T00:00:05Z"),
    );
    for old_first in [true, false] {
        if old_first {
            world.pod(&pod("old", "10.0.0.1"));
            world.pod(&newer);
        } else {
            world.pod(&newer);
            world.pod(&pod("old", "10.0.0.1"));
        }
        assert!(world.workload("old").is_none(), "old first: {old_first}");
        assert_eq!(world.workload("new").unwrap().addresses.len(), 1);
        // The newer one ends: the older one has its address back.
        world.pod(&with(newer.clone(), "/status/phase", json!("Failed")));
        assert!(world.workload("new").is_none());
        assert_eq!(world.workload("old").unwrap().addresses.len(), 1);
        world.delete_pod("shop", "old");
        assert!(world.workload("old").is_none());
    }
}

/// A pod that was long unscheduled gets the address of one that was created later, and hangs on a node that is gone.
#[test]
fn address_is_the_live_pods() {
    let pod = |name: &str, created: &str, started: &str| {
        let pod = with(
            pod(name, "10.0.0.1"),
            "/metadata/creationTimestamp",
            json!(created),
        );
        with(pod, "/status/startTime", json!(started))
    };
    let later = pod("later", "2026-01-01T00:05:00Z", "2026-01-01T00:05:01Z");
    let ends = with(
        later.clone(),
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:10:00Z"),
    );
    let first = pod("first", "2026-01-01T00:00:00Z", "2026-01-01T00:11:00Z");
    for order in [[&later, &ends, &first], [&first, &later, &ends]] {
        let mut world = World::enrolled();
        order.into_iter().for_each(|pod| world.pod(pod));
        assert!(world.workload("first").is_some() && world.workload("later").is_none());
        // It is gone, and comes again as one that lives.
        world.delete_pod("shop", "first");
        assert!(world.workload("later").is_some());
    }
    // Of two that live, the one that was started last.
    let mut world = World::enrolled();
    world.pod(&first);
    world.pod(&later);
    assert!(world.workload("first").is_some() && world.workload("later").is_none());
}

#[test]
fn pods_on_the_hosts_network_share_its_address() {
    let mut world = World::enrolled();
    for name in ["a", "b"] {
        world.pod(&with(
            marked(pod(name, "192.168.0.1")),
            "/spec/hostNetwork",
            json!(true),
        ));
    }
    for name in ["a", "b"] {
        let workload = world.workload(name).unwrap();
        assert_eq!(workload.addresses.len(), 1);
        assert_eq!(workload.network_mode(), NetworkMode::HostNetwork);
        assert_eq!(workload.tunnel_protocol(), TunnelProtocol::None);
    }
}

#[test]
fn an_event_that_changes_nothing_gives_nothing_out() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    world.pod(&pod("b", "10.0.0.2"));
    world.pod(&with(
        pod("a", "10.0.0.1"),
        "/status/message",
        json!("news of no consequence"),
    ));
    assert_eq!(world.last, [] as [String; 0]);
    world.pod(&marked(pod("a", "10.0.0.1")));
    assert_eq!(world.last, ["Kubernetes//Pod/shop/a"]);
}
