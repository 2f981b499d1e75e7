//! Two nodes, of which the client's hears late, or nothing, of the server's pod: that it is captured, that it takes
//! identities only, that there is such a pod.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_tls::testing::TestCa;
use ambit_wire::workload::{TunnelProtocol, Workload};
use socket2::SockRef;

use super::net::{Net, Pod, command};
use super::redirection::{echo_server, echo_server_at, open, talk};
use super::{ask, tell_peer_at};
use crate::control_plane::{ControlPlane, strict};
use crate::node::{Node, until};

/// A client's node that has heard nothing but of the client, and a server's node that knows both.
struct Nodes {
    news: ControlPlane,
    near: Node,
    far: Node,
    client: Pod,
    server: Pod,
}

fn server_of(pod: &Pod, protocol: TunnelProtocol, strict: bool) -> Workload {
    let policies = strict.then(|| "ambit-system/strict-mtls".into());
    Workload {
        authorization_policies: policies.into_iter().collect(),
        ..pod.workload(protocol)
    }
}

async fn nodes(strict_mode: bool) -> Nodes {
    let net = Net::new();
    let (client, server) = (net.pod("client", 2).await, net.pod("server", 3).await);
    let ca = Arc::new(TestCa::new().unwrap());
    let (news, all) = (ControlPlane::start().await, ControlPlane::start().await);
    let limits = ambit_ztunnel::Limits::default();
    let mut near = Node::start_parts(&news, &ca, limits.clone(), None).await;
    let mut far = Node::start_parts(&all, &ca, limits, None).await;
    client.capture(&mut near).await;
    server.capture(&mut far).await;
    for control_plane in [&news, &all] {
        control_plane.set_policy(strict());
        control_plane.set_workload(client.workload(TunnelProtocol::Hbone));
    }
    all.set_workload(server_of(&server, TunnelProtocol::Hbone, strict_mode));
    near.ready().await;
    far.ready().await;
    until_known(&near, 1).await;
    until_known(&far, 2).await;
    Nodes {
        news,
        near,
        far,
        client,
        server,
    }
}

async fn until_known(node: &Node, workloads: usize) {
    until("workloads are known", async || {
        let dump = node.config_dump().await;
        dump["workloads"]
            .as_object()
            .is_some_and(|w| w.len() == workloads)
    })
    .await;
}

impl Nodes {
    /// Connections with an identity that came to the server.
    async fn until_secure(&self, number: u64) {
        let name = "istio_tcp_connections_opened_total";
        let labels = ["reporter=\"destination\"", "mutual_tls"];
        self.far.until_metric(name, &labels, number).await;
    }
}

/// It knows the pod as one outside of the mesh, which takes what comes. Whoever speaks first, nothing fails and nothing
/// is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_capture_update_reaches_strict_pod() {
    let nodes = nodes(true).await;
    let (client, server) = (&nodes.client, &nodes.server);
    nodes
        .news
        .set_workload(server_of(server, TunnelProtocol::None, false));
    until_known(&nodes.near, 2).await;
    let addresses = [
        (IpAddr::from(client.ip), IpAddr::from(server.ip)),
        (client.ip6.into(), server.ip6.into()),
    ];
    for (from, to) in addresses {
        let (echo, greets) = (echo_server_at(server, to).await, tell_peer_at(server, to).await);
        for _ in 0..10 {
            let mut tcp = open(client, echo).await;
            talk(&mut tcp, "the client speaks first");
            talk(&mut tcp, "and goes on");
            assert_eq!(ask(client, greets).await.unwrap(), from.to_string());
        }
    }
    nodes.until_secure(40).await;
    let denied = nodes
        .far
        .metric("ambit_ztunnel_connections_denied_total", &[])
        .await;
    assert_eq!(denied, 40);
}

/// Then it does not know whose identity to ask for before it hears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_pod_is_reached_after_the_update() {
    let nodes = nodes(true).await;
    let echo = echo_server(&nodes.server).await;
    let mut tcp = open(&nodes.client, echo).await;
    let talking = tokio::task::spawn_blocking(move || talk(&mut tcp, "hello"));
    until("it is refused", async || {
        nodes
            .far
            .metric("ambit_ztunnel_connections_denied_total", &[])
            .await
            == 1
    })
    .await;
    nodes
        .news
        .set_workload(server_of(&nodes.server, TunnelProtocol::Hbone, true));
    talking.await.unwrap();
    nodes.until_secure(1).await;
}

/// Takes one request from each caller, and resets the connection.
async fn resets(pod: &Pod) -> (SocketAddr, Arc<AtomicUsize>) {
    let ip = pod.ip;
    let listener = pod.run(move || TcpListener::bind((ip, 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            if tcp.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            SockRef::from(&tcp)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
        }
    });
    (address, requests)
}

/// Says something, and hears that the connection is reset.
async fn until_reset(client: &Pod, application: SocketAddr) {
    let mut tcp = open(client, application).await;
    let heard = tokio::task::spawn_blocking(move || {
        tcp.write_all(b"take a number").unwrap();
        tcp.read(&mut [0])
    });
    let error = heard.await.unwrap().expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{application}");
}

/// A reset by the application looks the same to the client's node. Behind a ztunnel that lets plaintext pass, and
/// without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_read_by_the_application_are_not_repeated() {
    let nodes = nodes(false).await;
    let outsider = nodes.client.net.pod("outsider", 4).await;
    let pods = [&nodes.server, &outsider];
    for pod in pods {
        nodes
            .news
            .set_workload(server_of(pod, TunnelProtocol::None, false));
    }
    until_known(&nodes.near, 3).await;
    let unknown = nodes.client.net.pod("unknown", 5).await;
    for pod in [pods[0], pods[1], &unknown] {
        let (application, requests) = resets(pod).await;
        until_reset(&nodes.client, application).await;
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{}", pod.name);
    }
}

/// A host outside of the mesh is asked once in a while, or when something has been heard of it, not whenever it resets
/// a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_without_hbone_is_remembered() {
    let nodes = nodes(false).await;
    let stranger = nodes.client.net.pod("stranger", 4).await;
    let count = || {
        command("nft add table inet ask")?;
        command("nft add chain inet ask in { type filter hook input priority 0 ; }")?;
        command("nft add rule inet ask in tcp dport 15008 counter reject with tcp reset")
    };
    stranger.run(count).await.unwrap();
    let asked = async || {
        let list = || {
            Command::new("nft")
                .args(["list", "chain", "inet", "ask", "in"])
                .output()
        };
        let text = String::from_utf8(stranger.run(list).await.unwrap().stdout).unwrap();
        let number = text.split("packets ").nth(1).unwrap().split(' ').next();
        number.unwrap().parse::<usize>().unwrap()
    };
    let (application, requests) = resets(&stranger).await;
    for _ in 0..3 {
        until_reset(&nodes.client, application).await;
    }
    assert_eq!((requests.load(Ordering::SeqCst), asked().await), (3, 1));
    nodes
        .news
        .set_workload(server_of(&stranger, TunnelProtocol::None, false));
    until_known(&nodes.near, 2).await;
    until_reset(&nodes.client, application).await;
    assert_eq!((requests.load(Ordering::SeqCst), asked().await), (4, 2));
}
