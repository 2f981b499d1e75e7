//! What is bound to a waypoint goes through it, or nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::{Service, TunnelProtocol, Workload};
use ambit_ztunnel::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::at;
use crate::control_plane::{ControlPlane, endpoint_of, service, uid, workload};
use crate::node::{Node, address, echo, greeting, talk, until};
use crate::waypoint::{Heard, Replica, binding, hanging, replica, silent};

const FAILED: &str = "ambit_ztunnel_connections_failed_total";
const CLIENT: &str = "spiffe://cluster.local/ns/test/sa/client";
const BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=test,k8s.deployment.name=client,\
                       service.name=client,service.version=latest";

/// A captured client and a service `shop`, bound to a waypoint, of one plaintext backend that is reached when nothing
/// is in the way.
struct Shop {
    control_plane: ControlPlane,
    ca: Arc<TestCa>,
    node: Node,
    client: Ipv4Addr,
    vip: Ipv4Addr,
    backend: SocketAddr,
}

impl Shop {
    async fn open() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
        let mut node = Node::with(&control_plane, &ca, limits).await;
        let (client, server, vip) = (address(), address(), address());
        let backend = echo("backend", server).await;
        node.capture("client", client).await;
        control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
        let endpoint = workload("backend", server, TunnelProtocol::None);
        control_plane.set_workload(endpoint_of(endpoint, "shop", 80, backend.port()));
        control_plane.set_service(service("waypoint", address(), 15008));
        node.ready().await;
        let shop = Self {
            control_plane,
            ca,
            node,
            client,
            vip,
            backend,
        };
        shop.set(shop.bound()).await;
        shop
    }

    fn bound(&self) -> Service {
        Service {
            waypoint: binding(),
            ..service("shop", self.vip, 80)
        }
    }

    /// Tells of the service, and waits until it is known.
    async fn set(&self, service: Service) {
        let is_bound = service.waypoint.is_some();
        self.control_plane.set_service(service);
        until("the service is known", async || {
            let shop = &self.node.config_dump().await["services"]["test/shop.test.svc.cluster.local"];
            shop.is_object() && shop["waypoint"].is_object() == is_bound
        })
        .await;
    }

    /// Tells of replicas, and waits until they are known.
    async fn replicas(&self, replicas: impl IntoIterator<Item = (&str, Ipv4Addr)>) {
        let mut count = 0;
        for (name, ip) in replicas {
            self.control_plane.set_workload(replica(name, ip));
            count += 1;
        }
        until("the replicas are known", async || {
            let dump = self.node.config_dump().await;
            dump["services"]["test/waypoint.test.svc.cluster.local"]["endpoints"]
                .as_array()
                .is_some_and(|endpoints| endpoints.len() == count)
        })
        .await;
    }

    async fn call(&self) -> tokio::net::TcpStream {
        self.node.connect(self.client, at(self.vip, 80)).await
    }

    /// Who answers a call.
    async fn answer(&self) -> std::io::Result<String> {
        greeting(&mut self.call().await).await
    }
}

#[tokio::test]
async fn bound_service_is_called_through_its_waypoint() {
    let shop = Shop::open().await;
    let ip = address();
    let mut waypoint = Replica::start("waypoint-1", ip, &shop.ca).await;
    shop.replicas([("waypoint-1", ip)]).await;

    let mut tcp = shop.call().await;
    assert_eq!(greeting(&mut tcp).await.unwrap(), "waypoint-1");
    talk(&mut tcp, "hello").await;
    tcp.shutdown().await.unwrap();
    assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
    let heard = Heard {
        authority: at(shop.vip, 80),
        client: CLIENT.into(),
        baggage: BAGGAGE.into(),
    };
    assert_eq!(waypoint.heard().await, heard);
    let labels = [
        "reporter=\"source\"",
        "destination_service=\"shop.test.svc.cluster.local\"",
        "destination_workload=\"waypoint-1\"",
        "destination_principal=\"spiffe://cluster.local/ns/test/sa/waypoint\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    shop.node
        .until_metric("istio_tcp_connections_closed_total", &labels, 1)
        .await;
    let dump = shop.node.config_dump().await;
    assert_eq!(
        dump["services"]["test/shop.test.svc.cluster.local"]["waypoint"],
        serde_json::json!({
            "destination": "test/waypoint.test.svc.cluster.local",
            "hboneMtlsPort": 15008,
        })
    );

    // Unbound, new connections go there at once; what is open stays as it is.
    let mut open = shop.call().await;
    greeting(&mut open).await.unwrap();
    shop.set(service("shop", shop.vip, 80)).await;
    assert!(shop.answer().await.unwrap().starts_with("backend"));
    talk(&mut open, "still here").await;
}

#[tokio::test]
async fn missing_waypoint_refuses() {
    let shop = Shop::open().await;
    // None has ever been.
    assert!(shop.answer().await.is_err());
    let unreachable = ["reason=\"waypoint_unreachable\""];
    shop.node.until_metric(FAILED, &unreachable, 1).await;

    let (one, two) = (address(), address());
    let waypoint = Replica::start("waypoint-1", one, &shop.ca).await;
    shop.replicas([("waypoint-1", one)]).await;
    assert_eq!(shop.answer().await.unwrap(), "waypoint-1");

    // Killed, and the control plane has not heard of it.
    drop(waypoint);
    until("the pooled connection's end is seen", async || {
        shop.answer().await.is_err()
    })
    .await;
    assert!(shop.answer().await.is_err());

    // Somebody else at its address.
    let _impostor = Replica::start_as("impostor", "impostor", two, &shop.ca).await;
    shop.control_plane.remove_address(&uid("waypoint-1"));
    shop.replicas([("waypoint-2", two)]).await;
    assert!(shop.answer().await.is_err());

    // All replicas deleted.
    shop.control_plane.remove_address(&uid("waypoint-2"));
    shop.replicas([]).await;
    assert!(shop.answer().await.is_err());
    // Nothing of the waypoint known.
    shop.control_plane
        .remove_address("test/waypoint.test.svc.cluster.local");
    until("the waypoint's service is unknown", async || {
        shop.node.config_dump().await["services"]["test/waypoint.test.svc.cluster.local"].is_null()
    })
    .await;
    assert!(shop.answer().await.is_err());

    // The backend is there, for those who have no waypoint.
    let mut direct = shop.node.connect(shop.client, shop.backend).await;
    assert!(greeting(&mut direct).await.unwrap().starts_with("backend"));
}

#[tokio::test]
async fn dead_silent_and_hanging_replicas_are_skipped() {
    // What is not skipped fails the test by its own limit.
    let shop = Shop::with(Limits {
        connect_timeout: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(1),
        waypoint_timeout: Duration::from_secs(3),
        connect_attempts: 4,
        ..Limits::default()
    })
    .await;
    let [dead, mute, stuck, live] = [(); 4].map(|()| address());
    silent(mute).await;
    let _stuck = hanging(stuck).await;
    let mut waypoint = Replica::start("live", live, &shop.ca).await;
    shop.replicas([("dead", dead), ("mute", mute), ("stuck", stuck), ("live", live)])
        .await;
    for _ in 0..12 {
        assert_eq!(shop.answer().await.unwrap(), "live");
        assert_eq!(waypoint.heard().await.authority, at(shop.vip, 80));
    }
    assert_eq!(shop.node.metric(FAILED, &[]).await, 0);
}

#[tokio::test]
async fn last_live_replica_is_found() {
    let shop = Shop::open().await;
    let live = address();
    let _waypoint = Replica::start("live", live, &shop.ca).await;
    let gone: Vec<_> = (0..40)
        .map(|number| (format!("gone-{number}"), address()))
        .collect();
    let mut all: Vec<_> = gone.iter().map(|(name, ip)| (name.as_str(), *ip)).collect();
    all.push(("live", live));
    shop.replicas(all).await;
    assert_eq!(shop.answer().await.unwrap(), "live");
}

#[tokio::test]
async fn draining_replica_keeps_streams_and_gets_no_more() {
    let shop = Shop::open().await;
    let (one, two) = (address(), address());
    let first = Replica::start("waypoint-1", one, &shop.ca).await;
    shop.replicas([("waypoint-1", one)]).await;
    let mut old = shop.call().await;
    assert_eq!(greeting(&mut old).await.unwrap(), "waypoint-1");

    let _second = Replica::start("waypoint-2", two, &shop.ca).await;
    shop.replicas([("waypoint-1", one), ("waypoint-2", two)]).await;
    first.drain.cancel();
    // Those that come before its GOAWAY are served.
    until("all go to the other one", async || {
        for _ in 0..20 {
            if shop.answer().await.unwrap() != "waypoint-2" {
                return false;
            }
        }
        true
    })
    .await;
    talk(&mut old, "still here").await;
    // Nor when its pod is gone for the control plane.
    shop.control_plane.remove_address(&uid("waypoint-1"));
    shop.replicas([("waypoint-2", two)]).await;
    assert_eq!(shop.answer().await.unwrap(), "waypoint-2");
    talk(&mut old, "even now").await;
}

#[tokio::test]
async fn bound_pod_is_called_through_its_waypoint() {
    let shop = Shop::open().await;
    let ip = address();
    let mut waypoint = Replica::start("waypoint-1", ip, &shop.ca).await;
    shop.replicas([("waypoint-1", ip)]).await;
    let (pod, port) = (address(), 8080);
    shop.control_plane.set_workload(Workload {
        waypoint: binding(),
        ..workload("bound", pod, TunnelProtocol::Hbone)
    });
    until("the pod is known", async || {
        shop.node.config_dump().await["workloads"][pod.to_string()]["waypoint"].is_object()
    })
    .await;
    let mut tcp = shop.node.connect(shop.client, at(pod, port)).await;
    assert_eq!(greeting(&mut tcp).await.unwrap(), "waypoint-1");
    assert_eq!(waypoint.heard().await.authority, at(pod, port));

    drop(waypoint);
    until("the pooled connection's end is seen", async || {
        let mut tcp = shop.node.connect(shop.client, at(pod, port)).await;
        greeting(&mut tcp).await.is_err()
    })
    .await;
    shop.node
        .until_metric(FAILED, &["reason=\"waypoint_unreachable\""], 1)
        .await;
}
