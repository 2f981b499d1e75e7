//! What is refused before anybody looks for a destination.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HboneConfig, HboneIo, HbonePool, HboneStream, OpenError, PoolKey};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, IdentityLease, ManagerConfig};
use ambit_wire::names::{PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND};
use ambit_wire::workload::TunnelProtocol;
use ambit_ztunnel::Limits;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::agent::at;
use crate::control_plane::{ControlPlane, workload};
use crate::node::{Node, address, echo, greeting, talk};

const REFUSED: &str = "ambit_ztunnel_connections_refused_total";

#[tokio::test]
async fn the_proxys_own_ports_lead_nowhere() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let mut node = Node::start(&control_plane, &ca).await;
    let pod = address();
    node.capture("pod", pod).await;
    node.ready().await;
    // Not redirected at all.
    for port in [PORT_OUTBOUND, PORT_INBOUND] {
        let mut tcp = TcpStream::connect(at(pod, port)).await.unwrap();
        assert!(greeting(&mut tcp).await.is_err());
    }
    node.until_metric(REFUSED, &["own_port"], 2).await;
    // Redirected, by rules that should not have done it.
    for port in [PORT_INBOUND, PORT_HBONE] {
        assert!(
            greeting(&mut node.connect(pod, at(pod, port)).await)
                .await
                .is_err()
        );
    }
    node.until_metric(REFUSED, &["own_port", "direction=\"outbound\""], 3)
        .await;
}

#[tokio::test]
async fn connect_to_a_foreign_address_is_refused() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let mut node = Node::start(&control_plane, &ca).await;
    let (pod, other) = (address(), address());
    let forbidden = echo("forbidden", other).await;
    node.capture("pod", pod).await;
    control_plane.set_workload(workload("pod", pod, TunnelProtocol::Hbone));
    node.ready().await;
    let lease = CertificateManager::new(ca.clone(), ManagerConfig::default())
        .lease(SpiffeId::new("cluster.local", "test", "client").unwrap());
    let pool = HbonePool::new(HboneConfig::default());
    let key = PoolKey {
        source: lease.identity().clone(),
        destination: [SpiffeId::new("cluster.local", "test", "pod").unwrap()].into(),
        address: at(pod, PORT_HBONE),
        workload: "w".into(),
        pod: "p".into(),
    };
    let cases = [
        (forbidden, "reason=\"authority\""),
        (at(pod, PORT_HBONE), "reason=\"own_port\""),
    ];
    for (authority, reason) in cases {
        let authority = authority.to_string().parse().unwrap();
        let opened = pool
            .open(&key, &lease, &authority, || {
                TcpStream::connect(at(pod, PORT_HBONE))
            })
            .await;
        assert!(
            matches!(
                opened,
                Err(OpenError::Refused {
                    status: StatusCode::BAD_REQUEST,
                    ..
                })
            ),
            "{opened:?}"
        );
        node.until_metric(REFUSED, &[reason, "direction=\"inbound\""], 1)
            .await;
    }
    // Plaintext on the HBONE port.
    let mut tcp = TcpStream::connect(at(pod, PORT_HBONE)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    node.until_metric(REFUSED, &["reason=\"tls\""], 1).await;
}

#[tokio::test]
async fn pod_limit_resets_new_connections() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        // One peer may have half.
        connections_per_pod: 4,
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let (pod, outside) = (address(), address());
    let application = echo("outside", outside).await;
    node.capture("pod", pod).await;
    node.ready().await;
    let (mut one, mut two) = (
        node.connect(pod, application).await,
        node.connect(pod, application).await,
    );
    greeting(&mut one).await.unwrap();
    greeting(&mut two).await.unwrap();
    assert!(greeting(&mut node.connect(pod, application).await).await.is_err());
    node.until_metric(REFUSED, &["reason=\"pod_limit\""], 1).await;
    talk(&mut one, "one").await;
    drop(two);
    crate::node::until("room again", async || {
        greeting(&mut node.connect(pod, application).await).await.is_ok()
    })
    .await;
}

/// A pool and a certificate of a peer that the pod `pod` is to be reached with.
struct Peer {
    pool: HbonePool,
    lease: IdentityLease,
    opened: usize,
}

impl Peer {
    fn new(ca: &Arc<TestCa>, name: &str) -> Self {
        let identity = SpiffeId::new("cluster.local", "test", name).unwrap();
        Self {
            pool: HbonePool::new(HboneConfig::default()),
            lease: CertificateManager::new(ca.clone(), ManagerConfig::default()).lease(identity),
            opened: 0,
        }
    }

    /// A stream on a connection of its own.
    async fn open(&mut self, pod: std::net::Ipv4Addr, to: SocketAddr) -> Result<HboneIo, OpenError> {
        self.opened += 1;
        let key = PoolKey {
            source: self.lease.identity().clone(),
            destination: [SpiffeId::new("cluster.local", "test", "pod").unwrap()].into(),
            address: at(pod, PORT_HBONE),
            workload: self.opened.to_string().into(),
            pod: "p".into(),
        };
        let authority = to.to_string().parse().unwrap();
        let dial = || TcpStream::connect(at(pod, PORT_HBONE));
        let opened = self.pool.open(&key, &self.lease, &authority, dial).await;
        opened.map(HboneStream::into_io)
    }
}

#[tokio::test]
async fn peer_limit_leaves_connections_for_others() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        connections_per_pod: 12,
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let (pod, outside) = (address(), address());
    let (application, elsewhere) = (echo("pod", pod).await, echo("outside", outside).await);
    node.capture("pod", pod).await;
    control_plane.set_workload(workload("pod", pod, TunnelProtocol::Hbone));
    node.ready().await;
    let (mut greedy, mut other) = (Peer::new(&ca, "greedy"), Peer::new(&ca, "other"));
    let mut held = Vec::new();
    while let Ok(stream) = greedy.open(pod, application).await {
        held.push(stream);
        assert!(held.len() < 12, "nothing is refused");
    }
    assert!(!held.is_empty());
    crate::node::until("a refusal is counted", async || {
        let labels = ["reason=\"pod_limit\"", "direction=\"inbound\""];
        node.metric(REFUSED, &labels).await > 0
    })
    .await;
    let mut stream = other.open(pod, application).await.unwrap();
    assert_ne!(stream.read(&mut [0; 64]).await.unwrap(), 0);
    // What the pod itself begins does not depend on its peers, and neither does plaintext.
    greeting(&mut node.connect(pod, elsewhere).await).await.unwrap();
    greeting(&mut node.connect_plaintext(address(), application).await)
        .await
        .unwrap();
}

#[tokio::test]
async fn descriptor_limit_leaves_some_for_other_pods() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        descriptors: 80,
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let (greedy, neighbour, outside) = (address(), address(), address());
    let application = echo("outside", outside).await;
    node.capture("greedy", greedy).await;
    node.capture("neighbour", neighbour).await;
    node.ready().await;
    let mut held = Vec::new();
    loop {
        let mut tcp = node.connect(greedy, application).await;
        if greeting(&mut tcp).await.is_err() {
            break;
        }
        held.push(tcp);
        assert!(held.len() < 40, "nothing is refused");
    }
    node.until_metric(REFUSED, &["reason=\"descriptors\""], 1).await;
    for _ in 0..4 {
        let mut tcp = node.connect(neighbour, application).await;
        greeting(&mut tcp).await.unwrap();
        held.push(tcp);
    }
}

#[tokio::test]
async fn silent_handshakes_keep_nobody_out() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        handshakes: 4,
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let pod = address();
    node.capture("pod", pod).await;
    node.ready().await;
    let hbone = at(pod, PORT_HBONE);
    let from = async |source: std::net::Ipv4Addr| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(hbone).await.unwrap()
    };
    let (silent, other) = (address(), address());
    let _held = [from(silent).await, from(silent).await];
    let mut third = from(silent).await;
    node.until_metric(REFUSED, &["reason=\"handshakes\""], 1).await;
    assert!(!matches!(third.read(&mut [0]).await, Ok(1..)));
    // Another one is accepted: its bytes are not a handshake, and it gets an error.
    let mut other = from(other).await;
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    node.until_metric(REFUSED, &["reason=\"tls\""], 1).await;
}

#[tokio::test]
async fn unknown_workload_refuses() {
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = Limits {
        workload_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut node = Node::with(&control_plane, &ca, limits).await;
    let pod = address();
    let application = echo("pod", pod).await;
    node.capture("pod", pod).await;
    node.ready().await;
    assert!(
        greeting(&mut node.connect_plaintext(address(), application).await)
            .await
            .is_err()
    );
    node.until_metric(REFUSED, &["unknown_workload"], 1).await;
    // Another pod of the same address, before: its policies are not this one's.
    control_plane.set_workload(workload("predecessor", pod, TunnelProtocol::Hbone));
    assert!(
        greeting(&mut node.connect_plaintext(address(), application).await)
            .await
            .is_err()
    );
    node.until_metric(REFUSED, &["unknown_workload"], 2).await;
}
