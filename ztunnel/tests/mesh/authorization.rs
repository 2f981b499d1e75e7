//! Who is let in.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::TunnelProtocol;

use crate::control_plane::{ControlPlane, deny, strict, workload};
use crate::node::{Node, address, echo, greeting, talk, until};

struct Mesh {
    control_plane: ControlPlane,
    node: Node,
    friend: Ipv4Addr,
    foe: Ipv4Addr,
    server: Ipv4Addr,
    application: SocketAddr,
}

/// Two clients and a server, on one node.
async fn mesh() -> Mesh {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let mut node = Node::start(&control_plane, &ca).await;
    let (friend, foe, server) = (address(), address(), address());
    let application = echo("server", server).await;
    for (name, ip) in [("friend", friend), ("foe", foe), ("server", server)] {
        node.capture(name, ip).await;
        control_plane.set_workload(workload(name, ip, TunnelProtocol::Hbone));
    }
    node.ready().await;
    let mesh = Mesh {
        control_plane,
        node,
        friend,
        foe,
        server,
        application,
    };
    until("all are known", async || {
        mesh.node.config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 3)
    })
    .await;
    mesh
}

const FOE: &str = "cluster.local/ns/test/sa/foe";

#[tokio::test]
async fn deny_rule_ends_connections_of_one_client() {
    let Mesh {
        control_plane,
        node,
        friend,
        foe,
        application,
        ..
    } = mesh().await;
    let (mut good, mut bad) = (
        node.connect(friend, application).await,
        node.connect(foe, application).await,
    );
    greeting(&mut good).await.unwrap();
    greeting(&mut bad).await.unwrap();

    control_plane.set_policy(deny("no-foe", FOE));
    // The connection that the rule forbids ends; the other goes on.
    assert!(greeting(&mut bad).await.is_err());
    talk(&mut good, "still here").await;
    assert!(greeting(&mut node.connect(foe, application).await).await.is_err());
    greeting(&mut node.connect(friend, application).await)
        .await
        .unwrap();
    node.until_metric(
        "ambit_ztunnel_connections_denied_total",
        &["policy=\"test/no-foe\""],
        2,
    )
    .await;
    node.until_metric(
        "istio_tcp_connections_closed_total",
        &[
            "response_flags=\"DENY\"",
            "reporter=\"destination\"",
            "source_principal=\"spiffe://cluster.local/ns/test/sa/foe\"",
        ],
        2,
    )
    .await;
    node.until_metric(
        "ambit_ztunnel_connections_failed_total",
        &["denied_by_destination"],
        1,
    )
    .await;

    control_plane.remove_policy("test/no-foe");
    until("let in again", async || {
        greeting(&mut node.connect(foe, application).await).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_audit_rule_counts_and_denies_nothing() {
    let Mesh {
        control_plane,
        node,
        foe,
        application,
        ..
    } = mesh().await;
    control_plane.set_policy(ambit_wire::security::Authorization {
        dry_run: true,
        ..deny("would", FOE)
    });
    until("the rule is there", async || {
        node.config_dump().await["policies"]["test/would"].is_object()
    })
    .await;
    greeting(&mut node.connect(foe, application).await).await.unwrap();
    node.until_metric("ambit_ztunnel_audit_denials_total", &["policy=\"test/would\""], 1)
        .await;
}

#[tokio::test]
async fn plaintext_passes_when_permissive_and_not_when_strict() {
    let Mesh {
        control_plane,
        node,
        friend,
        server,
        application,
        ..
    } = mesh().await;
    let outsider = address();
    let mut tcp = node.connect_plaintext(outsider, application).await;
    // The application sees the client's own address.
    assert_eq!(greeting(&mut tcp).await.unwrap(), format!("server {outsider}"));
    talk(&mut tcp, "in clear").await;

    control_plane.set_policy(strict());
    let mut strict_server = workload("server", server, TunnelProtocol::Hbone);
    strict_server.authorization_policies = vec!["ambit-system/strict-mtls".into()];
    control_plane.set_workload(strict_server);
    // What was open in clear ends too.
    assert!(greeting(&mut tcp).await.is_err());
    assert!(
        greeting(&mut node.connect_plaintext(outsider, application).await)
            .await
            .is_err()
    );
    greeting(&mut node.connect(friend, application).await)
        .await
        .unwrap();
    node.until_metric(
        "ambit_ztunnel_connections_denied_total",
        &["policy=\"ambit-system/strict-mtls\""],
        2,
    )
    .await;
}

#[tokio::test]
async fn missing_policy_denies() {
    let Mesh {
        control_plane,
        node,
        friend,
        server,
        application,
        ..
    } = mesh().await;
    let mut waiting = workload("server", server, TunnelProtocol::Hbone);
    waiting.authorization_policies = vec!["test/late".into()];
    control_plane.set_workload(waiting);
    until("refused", async || {
        greeting(&mut node.connect(friend, application).await)
            .await
            .is_err()
    })
    .await;
    control_plane.set_policy(ambit_wire::security::Authorization {
        scope: ambit_wire::security::Scope::WorkloadSelector.into(),
        ..deny("late", FOE)
    });
    until("let in", async || {
        greeting(&mut node.connect(friend, application).await)
            .await
            .is_ok()
    })
    .await;
}
