//! Where connections go.

use std::sync::Arc;
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::{TunnelProtocol, WorkloadStatus};
use ambit_ztunnel::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::at;
use crate::control_plane::{ControlPlane, endpoint_of, service, uid, workload};
use crate::node::{Node, address, echo, greeting, talk, until};
use crate::waypoint::{Replica, hanging};

async fn two_nodes() -> (ControlPlane, Node, Node) {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let (a, b) = (
        Node::start(&control_plane, &ca).await,
        Node::start(&control_plane, &ca).await,
    );
    (control_plane, a, b)
}

#[tokio::test]
async fn a_service_is_reached_over_hbone_with_both_identities() {
    let (control_plane, mut a, mut b) = two_nodes().await;
    let (client, server, vip) = (address(), address(), address());
    let application = echo("server", server).await;
    a.capture("client", client).await;
    b.capture("server", server).await;
    control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
    let backend = workload("server", server, TunnelProtocol::Hbone);
    control_plane.set_workload(endpoint_of(backend, "echo", 80, application.port()));
    control_plane.set_service(service("echo", vip, 80));
    a.ready().await;
    b.ready().await;
    let known = async || {
        a.config_dump().await["services"]["test/echo.test.svc.cluster.local"]["endpoints"][0].is_string()
    };
    until("the service has an endpoint", known).await;

    let mut tcp = a.connect(client, at(vip, 80)).await;
    assert!(greeting(&mut tcp).await.unwrap().starts_with("server "));
    talk(&mut tcp, "hello").await;
    tcp.shutdown().await.unwrap();
    assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);

    let identities = [
        "source_principal=\"spiffe://cluster.local/ns/test/sa/client\"",
        "destination_principal=\"spiffe://cluster.local/ns/test/sa/server\"",
        "connection_security_policy=\"mutual_tls\"",
        "destination_service=\"echo.test.svc.cluster.local\"",
    ];
    a.until_metric(
        "istio_tcp_connections_closed_total",
        &[&identities[..], &["reporter=\"source\""]].concat(),
        1,
    )
    .await;
    b.until_metric(
        "istio_tcp_connections_closed_total",
        &[&identities[..], &["reporter=\"destination\""]].concat(),
        1,
    )
    .await;
    assert_eq!(b.metric("istio_tcp_received_bytes_total", &identities).await, 5);
    assert!(b.metric("istio_tcp_sent_bytes_total", &identities).await > 5);
}

#[tokio::test]
async fn outside_the_mesh_is_plaintext() {
    let (control_plane, mut a, _b) = two_nodes().await;
    let (client, unknown, known) = (address(), address(), address());
    a.capture("client", client).await;
    control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
    control_plane.set_workload(workload("legacy", known, TunnelProtocol::None));
    a.ready().await;
    for (name, ip) in [("unknown", unknown), ("known", known)] {
        let application = echo(name, ip).await;
        let mut tcp = a.connect(client, application).await;
        assert!(greeting(&mut tcp).await.unwrap().starts_with(name));
        talk(&mut tcp, "in clear").await;
    }
    let plain = ["reporter=\"source\"", "connection_security_policy=\"unknown\""];
    assert_eq!(a.metric("istio_tcp_connections_opened_total", &plain).await, 2);
}

#[tokio::test]
async fn endpoint_that_is_down_is_skipped() {
    let (control_plane, mut a, mut b) = two_nodes().await;
    let (client, down, up, vip) = (address(), address(), address(), address());
    let application = echo("up", up).await;
    a.capture("client", client).await;
    b.capture("up", up).await;
    for (name, ip) in [("down", down), ("up", up)] {
        let endpoint = workload(name, ip, TunnelProtocol::Hbone);
        control_plane.set_workload(endpoint_of(endpoint, "pair", 80, application.port()));
    }
    control_plane.set_service(service("pair", vip, 80));
    a.ready().await;
    b.ready().await;
    let both = async || {
        let dump = a.config_dump().await;
        dump["services"]["test/pair.test.svc.cluster.local"]["endpoints"]
            .as_array()
            .is_some_and(|e| e.len() == 2)
    };
    until("both endpoints", both).await;
    for _ in 0..12 {
        let mut tcp = a.connect(client, at(vip, 80)).await;
        assert!(greeting(&mut tcp).await.unwrap().starts_with("up"));
    }
}

/// Ten seconds for each connection is what this cost once.
#[tokio::test]
async fn hanging_endpoint_is_skipped_quickly() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        connect_timeout: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let (client, stuck, up, vip) = (address(), address(), address(), address());
    let application = echo("up", up).await;
    node.capture("client", client).await;
    let _stuck = hanging(stuck).await;
    node.capture("up", up).await;
    for (name, ip) in [("stuck", stuck), ("up", up)] {
        let endpoint = workload(name, ip, TunnelProtocol::Hbone);
        control_plane.set_workload(endpoint_of(endpoint, "pair", 80, application.port()));
    }
    control_plane.set_service(service("pair", vip, 80));
    node.ready().await;
    let both = async || {
        let dump = node.config_dump().await;
        dump["services"]["test/pair.test.svc.cluster.local"]["endpoints"]
            .as_array()
            .is_some_and(|e| e.len() == 2)
    };
    until("both endpoints", both).await;
    for _ in 0..12 {
        let mut tcp = node.connect(client, at(vip, 80)).await;
        assert!(greeting(&mut tcp).await.unwrap().starts_with("up"));
    }
}

/// Twelve seconds is what a connection cost once that met a pooled connection to a dead node.
#[tokio::test]
async fn dead_endpoint_is_skipped_quickly() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        connect_timeout: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let (client, dying, up, vip) = (address(), address(), address(), address());
    node.capture("client", client).await;
    let dies = Replica::start_as("dying", "dying", dying, &ca).await;
    let _up = Replica::start_as("up", "up", up, &ca).await;
    for (name, ip) in [("dying", dying), ("up", up)] {
        let endpoint = workload(name, ip, TunnelProtocol::Hbone);
        control_plane.set_workload(endpoint_of(endpoint, "pair", 80, 8080));
    }
    control_plane.set_service(service("pair", vip, 80));
    node.ready().await;
    let call = async || greeting(&mut node.connect(client, at(vip, 80)).await).await;
    // Once it has been called, there is a connection to it.
    until("both are called", async || {
        call().await.is_ok_and(|name| name == "dying")
    })
    .await;
    dies.freeze.cancel();
    let calls = async {
        for _ in 0..12 {
            assert_eq!(call().await.unwrap(), "up");
        }
    };
    tokio::time::timeout(Duration::from_secs(8), calls).await.unwrap();
}

#[tokio::test]
async fn service_without_endpoints_is_reset() {
    let (control_plane, mut a, _b) = two_nodes().await;
    let (client, sick, vip) = (address(), address(), address());
    a.capture("client", client).await;
    let mut endpoint = endpoint_of(workload("sick", sick, TunnelProtocol::Hbone), "ward", 80, 8080);
    endpoint.status = WorkloadStatus::Unhealthy.into();
    control_plane.set_workload(endpoint);
    control_plane.set_service(service("ward", vip, 80));
    a.ready().await;
    until("known", async || {
        a.config_dump().await["services"]["test/ward.test.svc.cluster.local"].is_object()
    })
    .await;
    let mut tcp = a.connect(client, at(vip, 80)).await;
    assert!(greeting(&mut tcp).await.is_err());
    a.until_metric(
        "ambit_ztunnel_connections_failed_total",
        &["no_healthy_endpoint"],
        1,
    )
    .await;
    let mut tcp = a.connect(client, at(vip, 81)).await;
    assert!(greeting(&mut tcp).await.is_err());
    a.until_metric("ambit_ztunnel_connections_failed_total", &["no_service_port"], 1)
        .await;
}

#[tokio::test]
async fn reused_address_gets_no_pooled_connection() {
    let (control_plane, mut a, mut b) = two_nodes().await;
    let (client, shared) = (address(), address());
    let application = echo("application", shared).await;
    a.capture("client", client).await;
    b.capture("old", shared).await;
    control_plane.set_workload(workload("old", shared, TunnelProtocol::Hbone));
    a.ready().await;
    b.ready().await;
    until("old is known", async || {
        a.config_dump().await["workloads"][shared.to_string()]["name"] == "old"
    })
    .await;
    talk_through(&a, client, application).await;

    b.agent.remove("old-uid", true).await;
    b.agent.ack().await;
    b.capture("new", shared).await;
    control_plane.remove_address(&uid("old"));
    control_plane.set_workload(workload("new", shared, TunnelProtocol::Hbone));
    until("new is known", async || {
        a.config_dump().await["workloads"][shared.to_string()]["name"] == "new"
    })
    .await;
    talk_through(&a, client, application).await;
    let new = ["destination_principal=\"spiffe://cluster.local/ns/test/sa/new\""];
    b.until_metric("istio_tcp_connections_opened_total", &new, 1)
        .await;
}

async fn talk_through(node: &Node, client: std::net::Ipv4Addr, to: std::net::SocketAddr) {
    let mut tcp = node.connect(client, to).await;
    greeting(&mut tcp).await.unwrap();
    talk(&mut tcp, "hello").await;
}

#[tokio::test]
async fn config_dump_has_istio_fields() {
    let (control_plane, mut a, _b) = two_nodes().await;
    let client = address();
    a.capture("client", client).await;
    control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
    control_plane.set_policy(crate::control_plane::deny(
        "no-sleep",
        "cluster.local/ns/default/sa/sleep",
    ));
    a.ready().await;
    until("all is there", async || {
        let dump = a.config_dump().await;
        dump["workloads"][client.to_string()].is_object()
            && dump["policies"]["test/no-sleep"].is_object()
            && dump["certificates"][0]["state"] == "Available"
    })
    .await;
    let dump = a.config_dump().await;
    let workload = &dump["workloads"][client.to_string()];
    assert_eq!(workload["workloadIp"], client.to_string());
    assert_eq!(workload["protocol"], "HBONE");
    for (field, value) in [
        ("name", "client"),
        ("namespace", "test"),
        ("serviceAccount", "client"),
        ("workloadName", "client"),
        ("workloadType", "deployment"),
        ("canonicalName", "client"),
        ("canonicalRevision", "latest"),
        ("node", ""),
        ("status", "Healthy"),
    ] {
        assert_eq!(workload[field], value, "{field}");
    }
    assert!(workload["authorizationPolicies"].is_array());
    let policy = &dump["policies"]["test/no-sleep"];
    assert_eq!(
        (&policy["name"], &policy["namespace"]),
        (&"no-sleep".into(), &"test".into())
    );
    assert_eq!(
        (&policy["scope"], &policy["action"]),
        (&"Namespace".into(), &"Deny".into())
    );
    let matches = serde_json::json!({"principals": [{"Exact": "cluster.local/ns/default/sa/sleep"}]});
    assert_eq!(policy["groups"][0][0][0], matches);
    let certificate = &dump["certificates"][0];
    assert_eq!(
        certificate["identity"],
        "spiffe://cluster.local/ns/test/sa/client"
    );
    assert!(certificate["expirationTime"].is_u64());
    assert!(!dump.to_string().contains("PRIVATE KEY"));
}
