//! Pods in network namespaces of their own, with the node agent's own sockets and nftables rules. Needs root, `ip` and
//! `sysctl`.

mod late;
mod measure;
mod net;
mod redirection;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::names::MARK_PROXY;
use ambit_wire::workload::TunnelProtocol;
use socket2::{Domain, Socket, Type};

use crate::agent::at;
use crate::control_plane::{ControlPlane, endpoint_of, service, workload};
use crate::node::{Node, WAIT, until};
use net::{Net, Pod};

/// A node with two captured pods.
struct Cluster {
    control_plane: ControlPlane,
    node: Node,
    client: Pod,
    server: Pod,
}

async fn cluster() -> Cluster {
    let net = Net::new();
    let (client, server) = (net.pod("client", 2).await, net.pod("server", 3).await);
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let pods = [client.clone(), server.clone()];
    let limits = ambit_ztunnel::Limits::default();
    let mut node = Node::start_parts(&control_plane, &ca, limits, None).await;
    for pod in &pods {
        pod.capture(&mut node).await;
        control_plane.set_workload(pod.workload(TunnelProtocol::Hbone));
    }
    node.ready().await;
    until("both are known", async || {
        node.config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 2)
    })
    .await;
    Cluster {
        control_plane,
        node,
        client,
        server,
    }
}

/// Connects, and returns what the server says: its peer's address.
async fn ask(pod: &Pod, to: SocketAddr) -> std::io::Result<String> {
    pod.run(move || {
        let mut tcp = std::net::TcpStream::connect_timeout(&to, WAIT)?;
        tcp.set_read_timeout(Some(WAIT))?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .await
}

/// Tells each caller its address and closes.
async fn tell_peer(pod: &Pod) -> SocketAddr {
    tell_peer_at(pod, pod.ip.into()).await
}

/// The same at this of the pod's addresses.
async fn tell_peer_at(pod: &Pod, ip: IpAddr) -> SocketAddr {
    tell_peer_but(pod, ip, 0).await.0
}

/// The same, but the first callers hear nothing and are kept; the number tells how many there are.
async fn tell_peer_but(pod: &Pod, ip: IpAddr, kept: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = pod
        .run(move || std::net::TcpListener::bind((ip, 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let callers = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&callers);
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            if silent.len() < kept {
                silent.push(tcp);
                count.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let peer = tcp.peer_addr().unwrap();
            tcp.write_all(peer.ip().to_string().as_bytes()).ok();
        }
    });
    (address, callers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_sees_the_clients_address_through_hbone() {
    let Cluster {
        control_plane,
        node,
        client,
        server,
    } = cluster().await;
    let application = tell_peer(&server).await;
    let seen = ask(&client, application).await.unwrap();
    assert_eq!(seen, client.ip.to_string());
    node.until_metric(
        "istio_tcp_connections_opened_total",
        &[
            "reporter=\"destination\"",
            "source_principal=\"spiffe://cluster.local/ns/test/sa/client\"",
        ],
        1,
    )
    .await;

    // By the service's address too.
    let vip = Ipv4Addr::new(10, 96, 7, 7);
    let backend = workload("server", server.ip, TunnelProtocol::Hbone);
    control_plane.set_workload(endpoint_of(backend, "who", 80, application.port()));
    control_plane.set_service(service("who", vip, 80));
    until("the service is known", async || {
        node.config_dump().await["services"]["test/who.test.svc.cluster.local"]["endpoints"][0].is_string()
    })
    .await;
    assert_eq!(ask(&client, at(vip, 80)).await.unwrap(), client.ip.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_reaches_itself_through_its_service() {
    let Cluster {
        control_plane,
        node,
        server,
        ..
    } = cluster().await;
    let application = tell_peer(&server).await;
    let vip = Ipv4Addr::new(10, 96, 7, 8);
    let backend = workload("server", server.ip, TunnelProtocol::Hbone);
    control_plane.set_workload(endpoint_of(backend, "self", 80, application.port()));
    control_plane.set_service(service("self", vip, 80));
    until("the service is known", async || {
        node.config_dump().await["services"]["test/self.test.svc.cluster.local"]["endpoints"][0].is_string()
    })
    .await;
    assert_eq!(ask(&server, at(vip, 80)).await.unwrap(), server.ip.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_keeps_its_source_address() {
    let Cluster {
        node, client, server, ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let application = tell_peer(&server).await;
    assert_eq!(
        ask(&outsider, application).await.unwrap(),
        outsider.ip.to_string()
    );
    node.until_metric(
        "istio_tcp_connections_opened_total",
        &["reporter=\"destination\"", "\"unknown\""],
        1,
    )
    .await;
    let outside = tell_peer(&outsider).await;
    assert_eq!(ask(&client, outside).await.unwrap(), client.ip.to_string());
    node.until_metric(
        "istio_tcp_connections_opened_total",
        &["reporter=\"source\"", "\"unknown\""],
        1,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_ports_lead_nowhere_in_namespaces() {
    let Cluster {
        node, client, server, ..
    } = cluster().await;
    for (from, to) in [(&client, client.ip), (&client, server.ip)] {
        for port in [15001, 15006] {
            assert!(
                ask(from, at(to, port)).await.map_or(true, |said| said.is_empty()),
                "{to}:{port}"
            );
        }
    }
    until("refusals", async || {
        node.metric("ambit_ztunnel_connections_refused_total", &[]).await >= 4
    })
    .await;
}

/// All sockets in pods are made from what the agent passed at the capture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_continue_without_an_agent() {
    let Cluster {
        mut node,
        client,
        server,
        ..
    } = cluster().await;
    let outsider = client.net.pod("outsider", 4).await;
    let (application, outside) = (tell_peer(&server).await, tell_peer(&outsider).await);
    node.agent.die().await;
    for _ in 0..40 {
        assert_eq!(ask(&client, application).await.unwrap(), client.ip.to_string());
        assert_eq!(ask(&client, outside).await.unwrap(), client.ip.to_string());
        assert_eq!(
            ask(&outsider, application).await.unwrap(),
            outsider.ip.to_string()
        );
    }
    let many = (0..100).map(|_| ask(&client, application));
    for answer in futures::future::join_all(many).await {
        assert_eq!(answer.unwrap(), client.ip.to_string());
    }
    let reused = node.metric("ambit_ztunnel_sockets_total", &["reused"]).await;
    assert!(reused > 0, "every connection had a new socket");
}

/// Connections over HBONE get their source port from the pod's own range. A plaintext connection from the same client
/// may hold one of these already: the two would be one to the pod's connection tracking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_a_plaintext_peer_holds_is_not_used_again() {
    let Cluster {
        node: _node,
        client,
        server,
        ..
    } = cluster().await;
    let (application, callers) = tell_peer_but(&server, server.ip.into(), 4).await;
    let (to, from) = (application, client.ip);
    let held = client
        .run(move || {
            let connect = |port| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                // Past the client's own redirection.
                socket.set_mark(MARK_PROXY)?;
                socket.bind(&at(from, port).into())?;
                socket.connect(&to.into())?;
                Ok(socket)
            };
            (42000..42004).map(connect).collect::<std::io::Result<Vec<_>>>()
        })
        .await
        .unwrap();
    until("the application has them", async || {
        callers.load(Ordering::SeqCst) == 4
    })
    .await;
    // From now on half of the ports that the kernel picks are those.
    server.sysctl("net.ipv4.ip_local_port_range", "42000 42007").await;
    for _ in 0..24 {
        let answer = tokio::time::timeout(Duration::from_secs(5), ask(&client, application)).await;
        assert_eq!(answer.expect("answered at once").unwrap(), client.ip.to_string());
    }
    drop(held);
}
