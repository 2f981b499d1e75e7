//! Guards: authorizations that keep the ways around a waypoint closed, and callers that hear late of the waypoint.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, HboneConfig, HboneHandler, RequestRefusal, serve_hbone};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, ManagerConfig, accept_tls};
use ambit_wire::names::{HEADER_GUARD, PORT_HBONE};
use ambit_wire::security::{self, Authorization};
use ambit_wire::workload::{Service, TunnelProtocol, Workload};
use ambit_ztunnel::Limits;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::agent::at;
use crate::control_plane::{ControlPlane, deny, endpoint_of, service, workload};
use crate::node::{Node, WAIT, address, echo, greeting, until};
use crate::waypoint::{Replica, binding, replica};

const GUARD: &str = "ambit-guard-shop";
const DENIED: &str = "ambit_ztunnel_connections_denied_total";
/// Longer than a test waits for something else.
const LONG: Duration = Duration::from_secs(60);

/// Two nodes with control planes of their own, so that each hears when the test wants it: one of a client, the other of
/// a captured backend of the service `shop`.
struct Shop {
    near: ControlPlane,
    far: ControlPlane,
    client_node: Node,
    server_node: Node,
    client: Ipv4Addr,
    vip: Ipv4Addr,
    backend: SocketAddr,
    ca: Arc<TestCa>,
    _waypoint: Replica,
}

impl Shop {
    async fn open(guard_timeout: Duration, guarded_per_pod: usize) -> Self {
        let limits = Limits {
            guard_timeout,
            guarded_per_pod,
            ..Limits::default()
        };
        let (near, far) = (ControlPlane::start().await, ControlPlane::start().await);
        let ca = Arc::new(TestCa::new().unwrap());
        let mut client_node = Node::with(&near, &ca, limits).await;
        let mut server_node = Node::with(&far, &ca, Limits::default()).await;
        let (client, server, vip, of_waypoint) = (address(), address(), address(), address());
        let backend = echo("backend", server).await;
        client_node.capture("client", client).await;
        server_node.capture("backend", server).await;
        let endpoint = workload("backend", server, TunnelProtocol::Hbone);
        let endpoint = endpoint_of(endpoint, "shop", 80, backend.port());
        for control_plane in [&near, &far] {
            control_plane.set_workload(workload("client", client, TunnelProtocol::Hbone));
            control_plane.set_workload(endpoint.clone());
            control_plane.set_service(service("shop", vip, 80));
            control_plane.set_service(service("waypoint", address(), 15008));
            control_plane.set_workload(replica("waypoint-1", of_waypoint));
        }
        let waypoint = Replica::start("waypoint-1", of_waypoint, &ca).await;
        client_node.ready().await;
        server_node.ready().await;
        let shop = Self {
            near,
            far,
            client_node,
            server_node,
            client,
            vip,
            backend,
            ca,
            _waypoint: waypoint,
        };
        until("the way is known", async || {
            greeting(&mut shop.call(at(shop.vip, 80)).await).await.is_ok()
        })
        .await;
        shop
    }

    async fn call(&self, to: SocketAddr) -> TcpStream {
        self.client_node.connect(self.client, to).await
    }

    /// On the backend's node alone.
    async fn close(&self) {
        self.far.set_policy(guard());
        self.far.set_workload(Workload {
            authorization_policies: vec![format!("test/{GUARD}")],
            ..endpoint_of(
                workload("backend", ip(self.backend), TunnelProtocol::Hbone),
                "shop",
                80,
                self.backend.port(),
            )
        });
        let at = self.backend.ip().to_string();
        until("the guard is known", async || {
            let dump = self.server_node.config_dump().await;
            dump["workloads"][&at]["authorizationPolicies"] == serde_json::json!([format!("test/{GUARD}")])
                && dump["policies"][format!("test/{GUARD}")].is_object()
        })
        .await;
    }

    /// On the backend's node alone.
    fn open_again(&self) {
        self.far.remove_policy(&format!("test/{GUARD}"));
        let endpoint = workload("backend", ip(self.backend), TunnelProtocol::Hbone);
        self.far
            .set_workload(endpoint_of(endpoint, "shop", 80, self.backend.port()));
    }

    fn bound(&self) -> Service {
        Service {
            waypoint: binding(),
            ..service("shop", self.vip, 80)
        }
    }

    async fn denials(&self) -> u64 {
        self.server_node.metric(DENIED, &[GUARD]).await
    }

    /// Waits for one more denial than there have been.
    async fn denied_again(&self) {
        let before = self.denials().await;
        until("it is denied", async || self.denials().await > before).await;
    }
}

fn ip(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("{address}"),
    }
}

/// Denies all but the waypoint.
fn guard() -> Authorization {
    let waypoint = deny(GUARD, "cluster.local/ns/test/sa/waypoint");
    let others = |one: security::Match| security::Match {
        not_principals: one.principals.clone(),
        principals: Vec::new(),
        ..one
    };
    let rules = waypoint.rules.into_iter().map(|rule| security::Rule {
        clauses: rule
            .clauses
            .into_iter()
            .map(|clause| security::Clause {
                matches: clause.matches.into_iter().map(others).collect(),
            })
            .collect(),
    });
    Authorization {
        scope: security::Scope::WorkloadSelector.into(),
        rules: rules.collect(),
        ..waypoint
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_that_hears_late_of_a_waypoint_comes_through_it() {
    let shop = Shop::open(LONG, 1).await;
    shop.close().await;
    let mut tcp = shop.call(at(shop.vip, 80)).await;
    shop.denied_again().await;
    shop.near.set_service(shop.bound());
    assert_eq!(greeting(&mut tcp).await.unwrap(), "waypoint-1");
    let failed = "ambit_ztunnel_connections_failed_total";
    assert_eq!(shop.client_node.metric(failed, &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_that_hears_early_of_the_end_of_a_waypoint_waits_for_the_guard_to_go() {
    let shop = Shop::open(LONG, 1).await;
    shop.close().await;
    for to in [at(shop.vip, 80), shop.backend] {
        let mut tcp = shop.call(to).await;
        shop.denied_again().await;
        shop.open_again();
        assert!(greeting(&mut tcp).await.unwrap().starts_with("backend"));
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn way_around_a_known_waypoint_is_refused_at_once() {
    // What waits fails the test by its own limit.
    let shop = Shop::open(LONG, 1).await;
    shop.close().await;
    shop.near.set_service(shop.bound());
    until("the waypoint is known", async || {
        let mut tcp = shop.call(at(shop.vip, 80)).await;
        greeting(&mut tcp).await.is_ok_and(|name| name == "waypoint-1")
    })
    .await;
    let before = shop.denials().await;
    let mut tcp = shop.call(shop.backend).await;
    let refused = tokio::time::timeout(WAIT, greeting(&mut tcp)).await.unwrap();
    assert!(refused.is_err());
    assert_eq!(shop.denials().await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_that_stays_refuses_in_the_end() {
    let shop = Shop::open(Duration::from_millis(300), 1).await;
    shop.close().await;
    let mut tcp = shop.call(at(shop.vip, 80)).await;
    assert!(greeting(&mut tcp).await.is_err());
    shop.client_node
        .until_metric(
            "ambit_ztunnel_connections_failed_total",
            &["denied_by_destination"],
            1,
        )
        .await;
    let denials = shop.denials().await;
    assert!((2..20).contains(&denials), "{denials}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_are_refused_at_once() {
    let shop = Shop::open(LONG, 1).await;
    shop.close().await;
    let mut first = shop.call(at(shop.vip, 80)).await;
    shop.denied_again().await;
    let mut second = shop.call(at(shop.vip, 80)).await;
    let refused = tokio::time::timeout(WAIT, greeting(&mut second)).await.unwrap();
    assert!(refused.is_err());
    // The place of one that is through is free.
    shop.open_again();
    greeting(&mut first).await.unwrap();
    shop.close().await;
    let mut third = shop.call(at(shop.vip, 80)).await;
    shop.denied_again().await;
    shop.near.set_service(shop.bound());
    assert_eq!(greeting(&mut third).await.unwrap(), "waypoint-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denial_by_a_rule_is_not_waited_for() {
    let shop = Shop::open(LONG, 1).await;
    shop.far
        .set_policy(deny("no-client", "cluster.local/ns/test/sa/client"));
    until("the rule is known", async || {
        shop.server_node.config_dump().await["policies"]["test/no-client"].is_object()
    })
    .await;
    let mut tcp = shop.call(at(shop.vip, 80)).await;
    let refused = tokio::time::timeout(WAIT, greeting(&mut tcp)).await.unwrap();
    assert!(refused.is_err());
}

/// Of another service with the same pods that is bound and not guarded: it says nothing of the way to this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waypoint_of_another_service_of_the_pods_is_no_way_that_is_known() {
    let shop = Shop::open(LONG, 1).await;
    let backend = workload("backend", ip(shop.backend), TunnelProtocol::Hbone);
    let backend = endpoint_of(backend, "shop", 80, shop.backend.port());
    shop.near
        .set_workload(endpoint_of(backend, "other", 80, shop.backend.port()));
    shop.near.set_service(Service {
        waypoint: binding(),
        ..service("other", address(), 80)
    });
    until("the other one is known", async || {
        let dump = shop.client_node.config_dump().await;
        dump["services"]["test/other.test.svc.cluster.local"]["endpoints"]
            .as_array()
            .is_some_and(|endpoints| endpoints.len() == 1)
    })
    .await;
    shop.close().await;
    let mut tcp = shop.call(at(shop.vip, 80)).await;
    shop.denied_again().await;
    shop.near.set_service(shop.bound());
    assert_eq!(greeting(&mut tcp).await.unwrap(), "waypoint-1");
}

/// Denies each CONNECT as the guard does, when it is let.
struct Denier {
    asked: Semaphore,
    go_on: Semaphore,
}

impl HboneHandler for Denier {
    async fn connect(self: Arc<Self>, request: ConnectRequest) {
        self.asked.add_permits(1);
        self.go_on.acquire().await.unwrap().forget();
        request.refuse_with(
            StatusCode::UNAUTHORIZED,
            HeaderName::from_static(HEADER_GUARD),
            HeaderValue::from_static("test/ambit-guard-shop"),
        );
    }

    fn refused(&self, refusal: &RequestRefusal) {
        panic!("{refusal}");
    }
}

/// The route was made before the update, and the denial comes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binding_that_arrives_before_the_denial_is_used() {
    let mut shop = Shop::open(LONG, 1).await;
    let (ca, server) = (Arc::clone(&shop.ca), address());
    let denier = Arc::new(Denier {
        asked: Semaphore::new(0),
        go_on: Semaphore::new(0),
    });
    let lease = CertificateManager::new(ca as _, ManagerConfig::default())
        .lease(SpiffeId::new("cluster.local", "test", "backend").unwrap());
    let certificate = lease.certificate(WAIT).await.unwrap();
    let listener = TcpListener::bind(at(server, PORT_HBONE)).await.unwrap();
    let handler = Arc::clone(&denier);
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, _) = accept_tls(tcp, &certificate).await.unwrap();
        let config = HboneConfig::default();
        serve_hbone(tls, &config, CancellationToken::new(), handler)
            .await
            .ok();
    });
    shop.backend = at(server, shop.backend.port());
    let moved = workload("backend", server, TunnelProtocol::Hbone);
    shop.near
        .set_workload(endpoint_of(moved, "shop", 80, shop.backend.port()));
    until("the backend is known", async || {
        shop.client_node.config_dump().await["workloads"][server.to_string()].is_object()
    })
    .await;
    let mut tcp = shop.call(at(shop.vip, 80)).await;
    denier.asked.acquire().await.unwrap().forget();
    shop.near.set_service(shop.bound());
    until("the binding is known", async || {
        let dump = shop.client_node.config_dump().await;
        dump["services"]["test/shop.test.svc.cluster.local"]["waypoint"].is_object()
    })
    .await;
    denier.go_on.add_permits(1);
    assert_eq!(greeting(&mut tcp).await.unwrap(), "waypoint-1");
}
