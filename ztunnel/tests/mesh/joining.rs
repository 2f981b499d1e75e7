//! Pods that join and leave, and nodes that hear of it at different times.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::{TunnelProtocol, Workload};
use ambit_ztunnel::Limits;

use crate::control_plane::{ControlPlane, strict, workload};
use crate::node::{Node, address, echo, greeting, talk, until};

struct Mesh {
    control_plane: ControlPlane,
    node: Node,
    client: Ipv4Addr,
    server: Ipv4Addr,
    application: SocketAddr,
}

impl Mesh {
    /// A client in the mesh, and a server of which the client's node has heard so much.
    async fn new(limits: Limits, server_is: TunnelProtocol) -> Self {
        let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
        let mut node = Node::with(&control_plane, &ca, limits).await;
        let (client, server) = (address(), address());
        let application = echo("server", server).await;
        node.capture("client", client).await;
        control_plane.set_policy(strict());
        control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
        control_plane.set_workload(strict_server(server, server_is));
        node.ready().await;
        until("both are known", async || {
            let dump = node.config_dump().await;
            dump["workloads"].as_object().is_some_and(|w| w.len() == 2)
        })
        .await;
        Self {
            control_plane,
            node,
            client,
            server,
            application,
        }
    }

    /// Connections that the client's proxy has counted as made, with this security.
    async fn made(&self, security: &str) -> u64 {
        let security = format!("connection_security_policy=\"{security}\"");
        let labels = ["reporter=\"source\"", &security];
        self.node
            .metric("istio_tcp_connections_opened_total", &labels)
            .await
    }
}

fn strict_server(ip: Ipv4Addr, protocol: TunnelProtocol) -> Workload {
    Workload {
        authorization_policies: vec!["ambit-system/strict-mtls".into()],
        ..workload("server", ip, protocol)
    }
}

/// The server takes no plaintext, and its node may have begun to redirect: the client's hears last that it speaks
/// HBONE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_pod_under_strict_is_waited_for() {
    let mut mesh = Mesh::new(Limits::default(), TunnelProtocol::None).await;
    let begun = mesh.node.metric("ambit_ztunnel_descriptors_in_use", &[]).await;
    let mut tcp = mesh.node.connect(mesh.client, mesh.application).await;
    until("the connection is accepted", async || {
        mesh.node.metric("ambit_ztunnel_descriptors_in_use", &[]).await > begun
    })
    .await;
    mesh.node.capture("server", mesh.server).await;
    mesh.control_plane
        .set_workload(strict_server(mesh.server, TunnelProtocol::Hbone));
    greeting(&mut tcp).await.unwrap();
    talk(&mut tcp, "with an identity").await;
    assert_eq!(
        (mesh.made("mutual_tls").await, mesh.made("unknown").await),
        (1, 0)
    );
}

/// The other order: its redirection is gone before the client's node hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_pod_is_reached_after_the_update() {
    let mesh = Mesh::new(Limits::default(), TunnelProtocol::Hbone).await;
    let begun = mesh.node.metric("ambit_ztunnel_descriptors_in_use", &[]).await;
    let mut tcp = mesh.node.connect(mesh.client, mesh.application).await;
    until("the connection is accepted", async || {
        mesh.node.metric("ambit_ztunnel_descriptors_in_use", &[]).await > begun
    })
    .await;
    mesh.control_plane
        .set_workload(workload("server", mesh.server, TunnelProtocol::None));
    greeting(&mut tcp).await.unwrap();
    talk(&mut tcp, "in clear").await;
    assert_eq!(
        (mesh.made("mutual_tls").await, mesh.made("unknown").await),
        (0, 1)
    );
}

/// News that do not come are not waited for without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_wait_uses_the_record() {
    let limits = || Limits {
        skew_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    // It cannot be captured, say: its node does not redirect.
    let mesh = Mesh::new(limits(), TunnelProtocol::None).await;
    for _ in 0..2 {
        let mut tcp = mesh.node.connect(mesh.client, mesh.application).await;
        greeting(&mut tcp).await.unwrap();
    }
    assert_eq!(mesh.made("unknown").await, 2);
    let mesh = Mesh::new(limits(), TunnelProtocol::Hbone).await;
    let mut tcp = mesh.node.connect(mesh.client, mesh.application).await;
    assert!(greeting(&mut tcp).await.is_err());
}

/// Permissive, Strict and back, for connections that have an identity, and those that come meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_mode_ends_no_connection_with_an_identity() {
    let mut mesh = Mesh::new(Limits::default(), TunnelProtocol::Hbone).await;
    mesh.node.capture("server", mesh.server).await;
    let mut open = Vec::new();
    for round in 0..4 {
        let policies = match round % 2 {
            0 => vec![],
            _ => strict_server(mesh.server, TunnelProtocol::Hbone).authorization_policies,
        };
        let expected = serde_json::json!(policies);
        mesh.control_plane.set_workload(Workload {
            authorization_policies: policies,
            ..workload("server", mesh.server, TunnelProtocol::Hbone)
        });
        let ip = mesh.server.to_string();
        until("the mode is known", async || {
            let dump = mesh.node.config_dump().await;
            dump["workloads"][&ip]["authorizationPolicies"] == expected
        })
        .await;
        let mut tcp = mesh.node.connect(mesh.client, mesh.application).await;
        greeting(&mut tcp).await.unwrap();
        open.push(tcp);
        for tcp in &mut open {
            talk(tcp, "still here").await;
        }
    }
}
