//! A whole waypoint in this process: a control plane, a client that speaks HBONE, and an application.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod client;
mod control_plane;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_waypoint::{Config, HttpTimeouts, Parts, Waypoint};
use ambit_wire::TokenFile;
use ambit_wire::names::{
    TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD, WAYPOINT_SETTINGS,
};
use ambit_wire::security::{Action, StringMatch, string_match::MatchType};
use ambit_wire::waypoint::{Policy, Rule, Service, ServicePort, Settings};
use ambit_wire::workload::{AppProtocol, Port, PortList, Workload};
use clap::Parser;
use tempfile::NamedTempFile;
use tonic::transport::Endpoint;

use client::{Client, get_plain};
use control_plane::ControlPlane;

const SERVER: &str = "shop/server.shop.svc.cluster.local";

struct Mesh {
    control_plane: ControlPlane,
    waypoint: Waypoint,
    ca: Arc<TestCa>,
    _token: NamedTempFile,
    /// Settings of metrics.
    settings: NamedTempFile,
}

impl Mesh {
    async fn start() -> Self {
        Self::start_with(Duration::ZERO).await
    }

    async fn start_with(notice: Duration) -> Self {
        let control_plane = ControlPlane::start().await;
        let ca = Arc::new(TestCa::new().unwrap());
        let token = NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "token").unwrap();
        let settings = NamedTempFile::new().unwrap();
        let config = Config::parse_from([
            "ambit-waypoint",
            "--pod-namespace=shop",
            "--service-account=waypoint",
            "--hbone-address=127.0.0.1:0",
            "--admin-address=127.0.0.1:0",
            "--metrics-address=127.0.0.1:0",
            &format!("--metrics-file={}", settings.path().display()),
            "--ready-address=127.0.0.1:0",
        ]);
        let url = control_plane.url();
        let parts = Parts {
            control_plane: control_plane.channel(),
            report: Arc::new(move || Endpoint::from_shared(url.clone()).unwrap().connect_lazy()),
            token: TokenFile::new(token.path()),
            certificates: Arc::clone(&ca) as _,
            timeouts: HttpTimeouts::default(),
            notice,
            workers: ambit_runtime::Shards::current(),
        };
        Self {
            waypoint: Waypoint::start(config, parts).await.unwrap(),
            control_plane,
            ca,
            _token: token,
            settings,
        }
    }

    /// With a service, and an endpoint of it that is not captured.
    async fn serving(application: SocketAddr) -> Self {
        Self::start().await.served(application).await
    }

    async fn served(self, application: SocketAddr) -> Self {
        let this = self;
        this.control_plane.complete();
        let settings = Settings {
            namespace: "shop".into(),
            name: "waypoint".into(),
            access_log: true,
            ..Default::default()
        };
        this.control_plane
            .set(TYPE_WAYPOINT_SETTINGS, WAYPOINT_SETTINGS, &settings);
        this.set_service(&[]);
        let ports = PortList {
            ports: vec![Port {
                service_port: 80,
                target_port: application.port().into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let endpoint = Workload {
            uid: "server-1".into(),
            name: "server-1".into(),
            namespace: "shop".into(),
            workload_name: "server".into(),
            addresses: vec![vec![127, 0, 0, 1]],
            services: [(SERVER.to_owned(), ports)].into(),
            ..Default::default()
        };
        this.control_plane.set(TYPE_WORKLOAD, "server-1", &endpoint);
        eventually(async || this.waypoint.is_ready()).await;
        eventually(async || this.dump().await["services"][SERVER]["endpoints"]["server-1"].is_object()).await;
        this
    }

    fn set_service(&self, authorization: &[&str]) {
        let service = Service {
            namespace: "shop".into(),
            name: "server".into(),
            hostname: "server.shop.svc.cluster.local".into(),
            addresses: vec![vec![10, 96, 0, 1]],
            ports: vec![ServicePort {
                port: 80,
                protocol: AppProtocol::Http11.into(),
                ..Default::default()
            }],
            authorization: authorization.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.control_plane.set(TYPE_WAYPOINT_SERVICE, SERVER, &service);
    }

    fn client(&self, account: &str) -> Client {
        Client::new(&self.ca, self.waypoint.addresses().hbone, account)
    }

    async fn dump(&self) -> serde_json::Value {
        let (_, body) = get_plain(self.waypoint.addresses().admin, "/config_dump").await;
        serde_json::from_str(&body).unwrap()
    }

    async fn metrics(&self) -> String {
        get_plain(self.waypoint.addresses().metrics, "/metrics").await.1
    }

    async fn ready(&self) -> (u16, String) {
        get_plain(self.waypoint.addresses().ready, "/healthz/ready").await
    }
}

/// As soon as it is so.
async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("it came about in time");
}

/// Denies this method for everybody.
fn denies(method: &str) -> Policy {
    Policy {
        namespace: "shop".into(),
        name: "orders".into(),
        authorization: vec![Rule {
            name: "no-deletes".into(),
            action: Action::Deny.into(),
            methods: vec![method.into()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn it_is_ready_when_it_has_been_told_everything() {
    let mesh = Mesh::start().await;
    assert_eq!(
        mesh.ready().await,
        (
            503,
            "not ready: waiting for the control plane's configuration\n".into()
        )
    );
    mesh.control_plane.complete();
    // Without settings that it understands it does not know what to enforce.
    let mut settings = Settings {
        requires: vec!["later".into()],
        ..Default::default()
    };
    mesh.control_plane
        .set(TYPE_WAYPOINT_SETTINGS, WAYPOINT_SETTINGS, &settings);
    mesh.control_plane.rejections(1).await;
    assert_eq!(mesh.ready().await.0, 503);
    settings.requires.clear();
    mesh.control_plane
        .set(TYPE_WAYPOINT_SETTINGS, WAYPOINT_SETTINGS, &settings);
    eventually(async || mesh.waypoint.is_ready()).await;
    assert_eq!(mesh.ready().await, (200, "ready\n".into()));
    let Mesh {
        control_plane,
        waypoint,
        ..
    } = mesh;
    let ready = waypoint.addresses().ready;
    drop(control_plane);
    assert_eq!(
        get_plain(ready, "/healthz/ready").await.0,
        200,
        "its last word stays in force"
    );
    waypoint.stop().await;
}

#[tokio::test]
async fn a_request_passes_and_a_policy_refuses_it() {
    let application = client::application().await;
    let mesh = Mesh::serving(application).await;
    let mut client = mesh.client("cart");
    let (status, head, body) = client.send("GET", "/orders").await;
    assert_eq!((status, body.as_str()), (200, "GET /orders"), "{head}");

    mesh.control_plane
        .set(TYPE_WAYPOINT_POLICY, "shop/orders", &denies("DELETE"));
    mesh.set_service(&["shop/orders"]);
    eventually(async || client.send("DELETE", "/orders").await.0 == 403).await;
    let (_, head, _) = client.send("DELETE", "/orders").await;
    assert!(
        head.contains("x-ambit-reason: denied by shop/orders/no-deletes"),
        "{head}"
    );
    assert_eq!(client.send("GET", "/orders").await.0, 200);

    let metrics = mesh.metrics().await;
    assert!(
        metrics.contains("ambit_requests_denied_total{rule=\"shop/orders/no-deletes\",service=\"server.shop.svc.cluster.local\"}"),
        "{metrics}"
    );
    let dump = mesh.dump().await;
    assert_eq!(
        dump["services"][SERVER]["rules"][0]["name"],
        "shop/orders/no-deletes"
    );
    assert_eq!(
        dump["certificates"][0]["identity"],
        "spiffe://cluster.local/ns/shop/sa/waypoint"
    );
    assert!(!dump.to_string().contains("PRIVATE"));
    mesh.waypoint.stop().await;
}

/// What dashboards made for Istio ask for, as a scrape has it.
#[tokio::test]
async fn a_scrape_has_the_series_that_istios_dashboards_ask_for() {
    let application = client::application().await;
    let mesh = Mesh::serving(application).await;
    mesh.set_service(&[]);
    let mut client = mesh.client("cart");
    eventually(async || client.send("GET", "/orders").await.0 == 200).await;
    let metrics = mesh.metrics().await;
    for series in [
        "istio_requests_total{",
        "istio_request_duration_milliseconds_bucket{",
        "istio_request_bytes_bucket{",
        "istio_response_bytes_bucket{",
        "istio_build{component=\"waypoint\",tag=\"",
        "istio_xds_message_total{url=\"",
        "istio_xds_message_bytes_total{url=\"",
        "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 0",
        "process_open_fds ",
        "process_cpu_seconds_total ",
    ] {
        let has = metrics.lines().any(|line| line.starts_with(series));
        assert!(has, "no {series} in {metrics}");
    }
    let at = mesh.waypoint.addresses().metrics;
    let istios = get_plain(at, "/stats/prometheus").await;
    assert!(
        istios.0 == 200 && istios.1.contains("\nistio_requests_total{"),
        "{istios:?}"
    );

    let settings = r#"{"dropLabels":["source_principal"],"waypointReportsDestination":true}"#;
    std::fs::write(mesh.settings.path(), settings).unwrap();
    eventually(async || !mesh.metrics().await.contains("source_principal=")).await;
    assert_eq!(client.send("GET", "/orders").await.0, 200);
    let metrics = mesh.metrics().await;
    let requests: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .collect();
    let of = |reporter: &str| {
        requests
            .iter()
            .find(|line| line.contains(&format!("reporter=\"{reporter}\"")))
    };
    assert!(
        of("destination").is_some_and(|line| line.ends_with(" 1")),
        "{requests:?}"
    );
    assert!(of("waypoint").is_some(), "{requests:?}");
    mesh.waypoint.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_changes_nothing_or_closes() {
    let application = client::application().await;
    let mesh = Mesh::serving(application).await;
    let mut client = mesh.client("cart");
    let unreadable = |name: &str| {
        let mut policy = denies("GET");
        policy.name = name.into();
        policy.authorization[0].paths = vec![StringMatch {
            match_type: Some(MatchType::Suffix("/orders".into())),
        }];
        policy
    };
    mesh.control_plane
        .set(TYPE_WAYPOINT_POLICY, "shop/orders", &denies("DELETE"));
    mesh.set_service(&["shop/orders"]);
    eventually(async || client.send("DELETE", "/orders").await.0 == 403).await;
    mesh.control_plane
        .set(TYPE_WAYPOINT_POLICY, "shop/orders", &unreadable("orders"));
    mesh.control_plane.rejections(1).await;
    assert_eq!(client.send("GET", "/orders").await.0, 200);
    assert_eq!(client.send("DELETE", "/orders").await.0, 403);

    mesh.control_plane
        .set(TYPE_WAYPOINT_POLICY, "shop/new", &unreadable("new"));
    mesh.control_plane.rejections(2).await;
    mesh.set_service(&["shop/orders", "shop/new"]);
    eventually(async || client.send("GET", "/orders").await.0 == 403).await;
    mesh.waypoint.stop().await;
}

#[tokio::test]
async fn a_policy_that_has_not_come_closes_the_service() {
    let application = client::application().await;
    let mesh = Mesh::serving(application).await;
    let mut client = mesh.client("cart");
    mesh.set_service(&["shop/orders"]);
    eventually(async || client.send("GET", "/").await.0 == 403).await;
    let (_, head, _) = client.send("GET", "/").await;
    assert!(
        head.contains("x-ambit-reason: policy shop/orders applies but has not been received"),
        "{head}"
    );
    mesh.waypoint.stop().await;
}

#[tokio::test]
async fn load_is_reported_and_draining_too() {
    let application = client::application().await;
    let mesh = Mesh::serving(application).await;
    mesh.client("cart").send("GET", "/").await;
    let told = |load: &Option<_>, of: fn(&ambit_wire::waypoint::Load) -> bool| load.as_ref().is_some_and(of);
    mesh.control_plane
        .load(|load| told(load, |load| load.requests == 1 && !load.draining))
        .await;
    let Mesh {
        control_plane,
        waypoint,
        ..
    } = mesh;
    tokio::join!(
        waypoint.stop(),
        control_plane.load(|load| told(load, |load| load.draining))
    );
}

#[tokio::test]
async fn one_that_is_to_go_serves_who_has_not_heard_of_it() {
    let application = client::application().await;
    // The rest of the end is not waited for.
    let notice = Duration::from_secs(3600);
    let mesh = Mesh::start_with(notice).await.served(application).await;
    let ready = mesh.waypoint.addresses().ready;
    let mut client = mesh.client("cart");
    let serving = async {
        eventually(async || {
            get_plain(ready, "/healthz/ready").await == (503, "not ready: draining\n".into())
        })
        .await;
        client.send("GET", "/orders").await.0
    };
    let stopping = mesh.waypoint.stop();
    tokio::select! {
        () = stopping => panic!("it ended at once"),
        status = serving => assert_eq!(status, 200),
    }
}
