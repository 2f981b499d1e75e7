//! Capture, release, and restarts of either side.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::TunnelProtocol;
use tokio::io::AsyncReadExt;

use crate::agent::{Agent, identity};
use crate::control_plane::{ControlPlane, workload};
use crate::node::{Node, WAIT, address, echo, greeting, talk, until};

struct Pair {
    control_plane: ControlPlane,
    ca: Arc<TestCa>,
    node: Node,
    client: Ipv4Addr,
    application: SocketAddr,
}

/// A client and a server on one node.
async fn pair() -> Pair {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let mut node = Node::start(&control_plane, &ca).await;
    let (client, server) = (address(), address());
    let application = echo("server", server).await;
    assert!(node.readiness().await.starts_with("not ready"));
    for (name, ip) in [("client", client), ("server", server)] {
        node.capture(name, ip).await;
        control_plane.set_workload(workload(name, ip, TunnelProtocol::Hbone));
    }
    node.ready().await;
    until("both are known", async || {
        node.config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 2)
    })
    .await;
    Pair {
        control_plane,
        ca,
        node,
        client,
        application,
    }
}

#[tokio::test]
async fn no_pod_is_accepted_before_initial_sync() {
    let (control_plane, ca) = (
        ControlPlane::start_silent().await,
        Arc::new(TestCa::new().unwrap()),
    );
    let mut starting = Box::pin(Node::start(&control_plane, &ca));
    // It resolves when the ztunnel has asked the agent for pods. Connections that it took now would go past waypoints,
    // in plaintext.
    let early = tokio::time::timeout(Duration::from_millis(500), &mut starting).await;
    assert!(early.is_err(), "it asks for pods and knows nothing of the mesh");
    control_plane.speak();
    let node = tokio::time::timeout(WAIT, starting).await.unwrap();
    node.ready().await;
}

#[tokio::test]
async fn released_pod_drains_before_the_acknowledgement() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    node.agent.remove("client-uid", false).await;
    node.until_metric("ambit_ztunnel_draining_pods", &[], 1).await;
    talk(&mut open, "not over yet").await;
    assert!(!node.agent.has_ack());
    drop(open);
    assert_eq!(node.agent.ack().await.error, "");
}

#[tokio::test]
async fn ended_pod_ends_its_connections() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    node.agent.remove("client-uid", true).await;
    assert_eq!(node.agent.ack().await.error, "");
    assert!(matches!(
        tokio::time::timeout(WAIT, open.read(&mut [0])).await.unwrap(),
        Ok(0) | Err(_)
    ));
    // A second time there is nothing left to do.
    node.agent.remove("client-uid", true).await;
    assert_eq!(node.agent.ack().await.error, "");
}

#[tokio::test]
async fn agent_restart_keeps_connections_and_listeners() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    node.agent.die().await;
    talk(&mut open, "nobody noticed").await;
    // Whole ones, while there is no agent.
    for _ in 0..20 {
        greeting(&mut node.connect(client, application).await)
            .await
            .unwrap();
    }

    node.agent = Agent::accept(&node.broker).await;
    let mut held: Vec<_> = node
        .agent
        .held
        .iter()
        .map(|(pod, fds)| (pod.name.clone(), fds.len()))
        .collect();
    held.sort();
    assert_eq!(held, [("client".to_owned(), 5), ("server".to_owned(), 5)]);
    for (pod, listeners) in std::mem::take(&mut node.agent.held) {
        node.agent.add(pod, &listeners).await;
    }
    node.ready().await;
    talk(&mut open, "and on").await;
    greeting(&mut node.connect(client, application).await)
        .await
        .unwrap();
}

#[tokio::test]
async fn pod_unnamed_by_a_new_agent_is_removed() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    node.agent.die().await;
    node.agent = Agent::accept(&node.broker).await;
    let held = std::mem::take(&mut node.agent.held);
    let (pod, listeners) = held.into_iter().find(|(pod, _)| pod.name == "server").unwrap();
    node.agent.add(pod, &listeners).await;
    node.agent.snapshot_done().await;
    node.until_metric("ambit_ztunnel_pods", &[], 1).await;
    assert!(matches!(
        tokio::time::timeout(WAIT, open.read(&mut [0])).await.unwrap(),
        Ok(0) | Err(_)
    ));
}

#[tokio::test]
async fn an_upgrade_refuses_no_connection_and_cuts_none() {
    let Pair {
        control_plane,
        ca,
        mut node,
        client,
        application,
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    let mut next = Node::start(&control_plane, &ca).await;
    // The agent keeps the listeners, as the real one does.
    let kept = kept_listeners(&mut node).await;
    let old = tokio::spawn(node.ztunnel.stop());
    node.agent.closed().await;
    for (name, ip, listeners) in kept {
        next.agent.add(identity(&name, ip), &listeners).await;
    }
    next.ready().await;
    until("configured", async || {
        next.config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 2)
    })
    .await;
    let mut fresh = next.connect(client, application).await;
    greeting(&mut fresh).await.unwrap();
    talk(&mut open, "as before").await;
    assert!(!old.is_finished());
    drop(open);
    tokio::time::timeout(WAIT, old).await.unwrap().unwrap();
    talk(&mut fresh, "and without the old one").await;
}

/// Has the ztunnel reconnect to another agent, which learns the listeners from it.
async fn kept_listeners(node: &mut Node) -> Vec<(String, Ipv4Addr, Vec<std::os::fd::OwnedFd>)> {
    node.agent.die().await;
    node.agent = Agent::accept(&node.broker).await;
    let held = std::mem::take(&mut node.agent.held);
    let mut kept = Vec::new();
    for (pod, listeners) in held {
        node.agent.add(pod.clone(), &listeners).await;
        kept.push((pod.name.clone(), pod.addresses[0].parse().unwrap(), listeners));
    }
    node.ready().await;
    kept
}

#[tokio::test]
async fn new_sandbox_shares_nothing_with_the_old() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    let elsewhere = address();
    let renewed = ambit_wire::broker::PodIdentity {
        netns_inode: 2,
        ..identity("client", elsewhere)
    };
    node.agent.add(renewed, &crate::agent::listeners(elsewhere)).await;
    // A reset: what was said is not taken for all there was.
    let ended = tokio::time::timeout(WAIT, open.read(&mut [0])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    greeting(&mut node.connect(elsewhere, application).await)
        .await
        .unwrap();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The certificates that are kept and renewed.
async fn certificates(node: &Node) -> usize {
    node.config_dump().await["certificates"]
        .as_array()
        .map_or(0, Vec::len)
}

/// The agent goes while the pod drains: nobody asks for the removal again, and nobody waits for it.
#[tokio::test]
async fn released_pod_ends_despite_agent_restart() {
    let Pair {
        mut node,
        client,
        application,
        ..
    } = pair().await;
    let mut open = node.connect(client, application).await;
    greeting(&mut open).await.unwrap();
    node.agent.remove("client-uid", false).await;
    node.until_metric("ambit_ztunnel_draining_pods", &[], 1).await;
    node.agent.die().await;
    node.agent = Agent::accept(&node.broker).await;
    for (pod, listeners) in std::mem::take(&mut node.agent.held) {
        node.agent.add(pod, &listeners).await;
    }
    node.ready().await;
    talk(&mut open, "still there").await;
    drop(open);
    node.until_metric("ambit_ztunnel_draining_pods", &[], 0).await;
    until("the certificate is let go", async || {
        certificates(&node).await == 1
    })
    .await;
}

/// Of pods that came and went nothing stays: no descriptor, no task that waits, no certificate.
#[tokio::test]
async fn thousand_pods_leave_nothing() {
    let Pair { mut node, .. } = pair().await;
    let ip = address();
    // Bound once: a child that another test forks has them open for a moment.
    let listeners = crate::agent::listeners(ip);
    let cycle = async |node: &mut Node, i: usize| {
        node.agent.add(identity("passing", ip), &listeners).await;
        node.agent.remove("passing-uid", i.is_multiple_of(2)).await;
        assert_eq!(node.agent.ack().await.error, "");
    };
    for i in 0..20 {
        cycle(&mut node, i).await;
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    node.until_metric("ambit_ztunnel_draining_pods", &[], 0).await;
    until("the certificate is let go", async || {
        certificates(&node).await == 2
    })
    .await;
    let before = (descriptors(), tasks());
    for i in 0..1000 {
        cycle(&mut node, i).await;
    }
    node.until_metric("ambit_ztunnel_draining_pods", &[], 0).await;
    until("the certificate is let go", async || {
        certificates(&node).await == 2
    })
    .await;
    // Other tests of this process open some as well, but not a thousand.
    until("descriptors and tasks are as before", async || {
        descriptors() < before.0 + 100 && tasks() <= before.1 + 5
    })
    .await;
}
