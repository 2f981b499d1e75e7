//! Connections that routes send elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::HboneIo;
use ambit_wire::{security, waypoint as wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::routes::to;
use super::rules::{policy, rule};
use super::support::*;
use crate::http::HttpTimeouts;
use crate::observe::Gauges;
use crate::state::AppProtocol;

fn name(route: &wire::Route) -> String {
    format!("{}/{}/{}", route.kind, route.namespace, route.name)
}

fn route(kind: &str, name: &str, hostnames: &[&str], backends: Vec<wire::RouteBackend>) -> wire::Route {
    wire::Route {
        kind: kind.into(),
        namespace: "shop".into(),
        name: name.into(),
        hostnames: hostnames.iter().map(|name| (*name).into()).collect(),
        rules: vec![wire::RouteRule {
            backends,
            ..wire::RouteRule::default()
        }],
        requires: vec!["connection-routes".into()],
    }
}

fn tcp(backends: Vec<wire::RouteBackend>) -> wire::Route {
    route("TCPRoute", "route", &[], backends)
}

fn tls(name: &str, hostnames: &[&str]) -> wire::Route {
    route("TLSRoute", name, hostnames, vec![to(name, 1)])
}

impl Mesh {
    /// The service has these routes.
    fn connection_routes(&self, routes: &[wire::Route]) {
        self.set_routes(routes);
        self.attach(routes);
    }

    fn set_routes(&self, routes: &[wire::Route]) {
        let named = routes.iter().map(|route| (name(route), route.clone()));
        assert!(self.state.apply_routes(&[], named).is_empty());
    }

    fn attach(&self, routes: &[wire::Route]) {
        self.apply_service(|service| {
            service.requires = vec!["routes".into(), "connection-routes".into()];
            service.routes = routes
                .iter()
                .map(|route| wire::AttachedRoute {
                    route: name(route),
                    ..wire::AttachedRoute::default()
                })
                .collect();
        });
    }

    /// A backend that says its name and then echoes.
    async fn greeter(&self, name: &'static str, change: impl FnOnce(&mut wire::Backend)) {
        let address = raw_application(move |mut tcp, _| async move {
            tcp.write_all(name.as_bytes()).await.unwrap();
            let (mut read, mut write) = tcp.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        })
        .await;
        self.backend_at(name, address, change);
    }

    /// What a client hears first that says nothing; nothing where the connection ends.
    async fn greeting(&self, port: u16) -> String {
        hear(&mut self.connect(port).await).await
    }
}

async fn hear(io: &mut HboneIo) -> String {
    let mut heard = [0; 64];
    let read = tokio::time::timeout(WAIT, io.read(&mut heard)).await.unwrap();
    String::from_utf8_lossy(&heard[..read.unwrap_or(0)]).into_owned()
}

/// Two backends that speak first.
async fn greeters() -> Mesh {
    let mesh = Mesh::new().await;
    mesh.greeter("v1", |_| {}).await;
    mesh.greeter("v2", |_| {}).await;
    mesh
}

/// Neither the server's greeting nor bytes that look like HTTP are waited for, whatever the port's protocol.
#[tokio::test]
async fn a_tcp_route_is_followed_at_once_whatever_is_said() {
    let mesh = greeters().await;
    mesh.connection_routes(&[tcp(vec![to("v1", 1)])]);
    for port in [80, 81, 9000] {
        let begun = Instant::now();
        let mut io = mesh.connect(port).await;
        assert_eq!(hear(&mut io).await, "v1");
        assert!(begun.elapsed() < HttpTimeouts::default().detect, "{port}");
        let request = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n";
        io.write_all(request).await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!(read_all(&mut io).await.as_bytes(), request);
    }
    let opened = [
        "istio_tcp_connections_opened_total",
        "destination_service_name=\"v1\"",
    ];
    assert_eq!(mesh.metric(&opened), 3);
}

#[tokio::test]
async fn weights_choose_once_for_a_connection_and_a_change_moves_new_ones() {
    let mesh = greeters().await;
    mesh.connection_routes(&[tcp(vec![to("v1", 1), to("v2", 0)])]);
    let mut open = mesh.connect(80).await;
    assert_eq!(hear(&mut open).await, "v1");

    mesh.set_routes(&[tcp(vec![to("v1", 0), to("v2", 100)])]);
    for _ in 0..20 {
        assert_eq!(mesh.greeting(80).await, "v2");
    }
    // What is open stays, also when its backend is not sent any more.
    let backend = "shop/v1.shop.svc.cluster.local".to_owned();
    mesh.state.apply_backends(&[backend], []);
    open.write_all(b"still here").await.unwrap();
    assert_eq!(hear(&mut open).await, "still here");

    mesh.greeter("v3", |_| {}).await;
    mesh.set_routes(&[tcp(vec![to("v2", 3), to("v3", 1)])]);
    let mut seen = 0;
    for _ in 0..200 {
        seen += usize::from(mesh.greeting(80).await == "v2");
    }
    // 5 standard deviations of 200 draws.
    assert!((119..=181).contains(&seen), "{seen}");
}

#[tokio::test]
async fn the_share_of_what_is_not_valid_is_closed() {
    let mesh = greeters().await;
    let broken = wire::RouteBackend {
        invalid: "there is no Service".into(),
        weight: 1,
        ..wire::RouteBackend::default()
    };
    let flag = |flag: &str| format!("response_flags=\"{flag}\"");
    let mut expected = 0;
    for backends in [
        vec![broken],
        Vec::new(),
        vec![to("v1", 0)],
        vec![to("unknown", 1)],
    ] {
        mesh.connection_routes(&[tcp(backends)]);
        assert_eq!(mesh.greeting(80).await, "");
        expected += 1;
        mesh.counts(&["istio_tcp_connections_closed_total", &flag("NR")], expected)
            .await;
    }
    // A route that is named and has not come closes its port.
    let other = route("TCPRoute", "other", &[], Vec::new());
    mesh.attach(&[other]);
    assert_eq!(mesh.greeting(80).await, "");
    // A backend without endpoints.
    mesh.connection_routes(&[tcp(vec![to("v1", 1)])]);
    mesh.remove("v1-1");
    // The reset may be there before the stream is open.
    if let Ok(mut io) = mesh.open(SocketAddr::new(VIP.parse().unwrap(), 80)).await {
        assert_eq!(hear(&mut io).await, "");
    }
    mesh.counts(&["istio_tcp_connections_closed_total", &flag("UH")], 1)
        .await;
}

/// Only the ports that a route is attached to, and only the callers that it is for.
#[tokio::test]
async fn ports_and_consumers_are_told_apart() {
    let mesh = greeters().await;
    mesh.greeter("own", |_| {}).await;
    let one = route("TCPRoute", "one", &[], vec![to("v1", 1)]);
    let consumers = route("TCPRoute", "two", &[], vec![to("v2", 1)]);
    mesh.set_routes(&[one.clone(), consumers.clone()]);
    let attach = |namespace: &str| {
        mesh.apply_service(|service| {
            service.routes = vec![
                wire::AttachedRoute {
                    route: name(&one),
                    ports: vec![9000],
                    consumers: String::new(),
                },
                wire::AttachedRoute {
                    route: name(&consumers),
                    ports: vec![9000],
                    consumers: namespace.into(),
                },
            ];
        });
    };
    attach("elsewhere");
    assert_eq!(mesh.greeting(9000).await, "v1");
    // The clients of the tests are of this one.
    attach("shop");
    assert_eq!(mesh.greeting(9000).await, "v2");

    // A port without routes has the service's own endpoints, with HTTP.
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    assert!(client.get("/a").await.2.contains("GET /a"));
}

/// The rules of the service and those of the backend, at once and when they change.
#[tokio::test]
async fn rules_of_both_services_hold_for_routed_connections() {
    let mesh = greeters().await;
    let ruled = |mesh: &Mesh, rules: Vec<wire::Rule>| {
        let rules = policy("backend", rules);
        mesh.state.apply_policies(&[], vec![rules.try_into().unwrap()]);
    };
    ruled(&mesh, Vec::new());
    mesh.greeter("v3", |backend| {
        backend.authorization = vec![wire::RuleSet {
            policies: vec!["shop/backend".into()],
        }];
    })
    .await;
    mesh.connection_routes(&[tcp(vec![to("v3", 1)])]);
    let mut open = mesh.connect(80).await;
    assert_eq!(hear(&mut open).await, "v3");

    let no_deletes = || {
        rule("no-deletes", security::Action::Deny, |rule| {
            rule.methods = vec!["DELETE".into()];
        })
    };
    let reads = rule("reads", security::Action::Allow, |rule| {
        rule.methods = vec!["GET".into()];
    });
    // A connection has no method: an Allow of that kind does not match, a Deny does.
    for rules in [vec![no_deletes()], vec![reads]] {
        ruled(&mesh, rules);
        assert_eq!(mesh.greeting(80).await, "");
    }
    assert_eq!(read_all(&mut open).await, "", "it is ended");
    // Of all series: a refused connection has no endpoint.
    let denied = async |name: &str, count: u64| {
        let name = format!("destination_service_name=\"{name}\"");
        let closed = [
            "istio_tcp_connections_closed_total",
            "response_flags=\"DENY\"",
            &name,
        ];
        let sum = || {
            let text = mesh.observer.render(&Gauges::default()).unwrap();
            let lines = text
                .lines()
                .filter(|line| closed.iter().all(|part| line.contains(part)));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum::<u64>()
        };
        let counted = async {
            while sum() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, counted).await.unwrap();
    };
    denied("v3", 3).await;

    // Those of the service that the client has connected to come first.
    ruled(&mesh, Vec::new());
    assert_eq!(mesh.greeting(80).await, "v3");
    mesh.state
        .apply_policies(&[], vec![policy("frontend", [no_deletes()]).try_into().unwrap()]);
    let routes = [tcp(vec![to("v3", 1)])];
    mesh.apply_service(|service| {
        service.authorization = vec!["shop/frontend".into()];
        service.routes = vec![wire::AttachedRoute {
            route: name(&routes[0]),
            ..wire::AttachedRoute::default()
        }];
    });
    assert_eq!(mesh.greeting(80).await, "");
    denied("server", 1).await;
}

/// A TLS server whose certificate is for these names. It says which backend it is, and the server name that it was asked for.
struct TlsServers {
    roots: Arc<RootCertStore>,
    config: Arc<ServerConfig>,
}

impl TlsServers {
    fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        Self {
            roots: Arc::new(roots),
            config: Arc::new(config),
        }
    }

    async fn start(&self, name: &'static str) -> SocketAddr {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        raw_application(move |tcp, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut io) = acceptor.accept(tcp).await else {
                    return;
                };
                let asked = io.get_ref().1.server_name().unwrap_or("-").to_owned();
                io.write_all(format!("{name} {asked}").as_bytes()).await.unwrap();
                io.shutdown().await.ok();
            }
        })
        .await
    }

    /// What a client hears that asks for this name; why not, where the connection ends.
    async fn ask(&self, io: HboneIo, server_name: &str) -> std::io::Result<String> {
        let config = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        let server_name = ServerName::try_from(server_name.to_owned()).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(server_name, io);
        let mut io = tokio::time::timeout(WAIT, connecting).await.unwrap()?;
        let mut heard = String::new();
        io.read_to_string(&mut heard).await?;
        Ok(heard)
    }
}

async fn tls_servers(timeouts: HttpTimeouts) -> (Mesh, TlsServers) {
    let mesh = Mesh::with(timeouts).await;
    let servers = TlsServers::new(&["a.example.com", "b.example.com", "c.d.example.com", "example.com"]);
    for name in ["exact", "wildcard"] {
        mesh.backend_at(name, servers.start(name).await, |_| {});
    }
    mesh.connection_routes(&[
        tls("wildcard", &["*.example.com"]),
        tls("exact", &["a.example.com"]),
    ]);
    (mesh, servers)
}

/// The hello of this client has a post-quantum key share.
#[tokio::test]
async fn the_server_name_chooses_the_route_and_tls_passes_through() {
    let (mesh, servers) = tls_servers(HttpTimeouts::default()).await;
    for (port, server_name, expected) in [
        (80, "a.example.com", "exact a.example.com"),
        (81, "A.EXAMPLE.COM", "exact a.example.com"),
        (9000, "b.example.com", "wildcard b.example.com"),
        (80, "c.d.example.com", "wildcard c.d.example.com"),
    ] {
        let heard = servers.ask(mesh.connect(port).await, server_name).await.unwrap();
        assert_eq!(heard, expected);
    }
    let opened = |name: &str| {
        let name = format!("destination_service_name=\"{name}\"");
        mesh.metric(&["istio_tcp_connections_opened_total", &name])
    };
    assert_eq!((opened("exact"), opened("wildcard")), (2, 2));
    // No route is for these: an unknown name, and none.
    for server_name in ["example.com", "127.0.0.1"] {
        let io = mesh.connect(80).await;
        assert!(servers.ask(io, server_name).await.is_err(), "{server_name}");
    }
    assert_eq!(
        mesh.metric(&["istio_tcp_connections_closed_total", "response_flags=\"NR\""]),
        2
    );
    // One without host names is for all.
    mesh.connection_routes(&[tls("exact", &["a.example.com"]), tls("wildcard", &[])]);
    let heard = servers.ask(mesh.connect(80).await, "example.com").await.unwrap();
    assert_eq!(heard, "wildcard example.com");
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_is_read_all_the_same() {
    let (mesh, servers) = tls_servers(HttpTimeouts::default()).await;
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let mut io = mesh.connect(80).await;
    let carrying = tokio::spawn(async move {
        // The whole hello first; the first flight has nothing else.
        let mut hello = vec![0; 5];
        far.read_exact(&mut hello).await.unwrap();
        let length = usize::from(hello[3]) << 8 | usize::from(hello[4]);
        hello.resize(5 + length, 0);
        far.read_exact(&mut hello[5..]).await.unwrap();
        assert!(length > 1216, "no post-quantum key share: {length}");
        for byte in &hello {
            io.write_all(&[*byte]).await.unwrap();
            io.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut io, &mut far).await.ok();
    });
    let config = ClientConfig::builder()
        .with_root_certificates(Arc::clone(&servers.roots))
        .with_no_client_auth();
    let server_name = ServerName::try_from("a.example.com").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(server_name, near);
    let mut tls = tokio::time::timeout(WAIT, connecting).await.unwrap().unwrap();
    let mut heard = String::new();
    tls.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "exact a.example.com");
    drop(tls);
    carrying.await.unwrap();
}

#[tokio::test]
async fn what_is_no_tls_or_too_slow_is_closed_at_the_port_of_a_tls_route() {
    let timeouts = HttpTimeouts {
        detect: Duration::from_millis(100),
        ..HttpTimeouts::default()
    };
    let (mesh, _servers) = tls_servers(timeouts).await;
    let mut expected = 0;
    for said in [
        &b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH\r\n",
        // The beginning of a hello, and silence.
        b"\x16\x03\x01\x02\x00\x01",
        b"",
        // More than a hello may have.
        &[&b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb"[..], &[0; 17 << 10]].concat(),
    ] {
        assert_eq!(mesh.exchange(80, said).await, "");
        expected += 1;
        mesh.counts(
            &["istio_tcp_connections_closed_total", "response_flags=\"NR\""],
            expected,
        )
        .await;
    }
    // A client that ends without a word is no failure.
    let mut io = mesh.connect(80).await;
    io.shutdown().await.unwrap();
    assert_eq!(read_all(&mut io).await, "");
    assert_eq!(mesh.metric(&["istio_tcp_connections_opened_total"]), expected);
}

/// A client that is heard while routes change is served by those of now.
#[tokio::test]
async fn routes_that_come_while_a_client_is_silent_apply_to_it() {
    let (mesh, servers) = tls_servers(HttpTimeouts::default()).await;
    let io = mesh.connect(80).await;
    mesh.connection_routes(&[tls("wildcard", &["a.example.com"])]);
    let heard = servers.ask(io, "a.example.com").await.unwrap();
    assert_eq!(heard, "wildcard a.example.com");
}

#[tokio::test]
async fn the_backends_protocol_does_not_matter_to_a_routed_connection() {
    let mesh = Mesh::new().await;
    mesh.greeter("v1", |backend| {
        backend.ports[0].protocol = AppProtocol::Http2.into();
    })
    .await;
    mesh.connection_routes(&[tcp(vec![to("v1", 1)])]);
    assert_eq!(mesh.greeting(8080).await, "v1");
}

/// An HTTP client that was there before a TCPRoute is not cut off: its requests have no other routes.
#[tokio::test]
async fn requests_of_an_open_connection_go_on_when_a_tcp_route_takes_the_port() {
    let mesh = greeters().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    assert!(client.get("/a").await.2.contains("GET /a"));
    mesh.connection_routes(&[tcp(vec![to("v1", 1)])]);
    assert!(client.get("/b").await.2.contains("GET /b"));
    assert_eq!(mesh.greeting(80).await, "v1");
}

#[tokio::test]
async fn the_config_dump_has_the_host_names_and_backends_of_routes() {
    let (mesh, _servers) = tls_servers(HttpTimeouts::default()).await;
    let dump = serde_json::to_value(mesh.state.dump()).unwrap();
    assert_eq!(
        dump["routes"]["TLSRoute/shop/wildcard"][0],
        serde_json::json!({
            "hostnames": ["*.example.com"], "matches": 0,
            "backends": ["shop/wildcard.shop.svc.cluster.local:80 weight 1"],
        })
    );
}

/// `sessionAffinity: ClientIP` of a backend: a client keeps its endpoint, for connections and requests.
#[tokio::test]
async fn a_client_keeps_its_endpoint_of_a_backend_with_affinity() {
    let mesh = Mesh::new().await;
    let affine = |backend: &mut wire::Backend| backend.session_affinity_seconds = 60;
    mesh.greeter("v1", affine).await;
    let key = "shop/v1.shop.svc.cluster.local".to_owned();
    for number in 2..6 {
        let name = format!("v1-{number}");
        let said = name.clone();
        let address = raw_application(move |mut tcp, _| {
            let said = said.clone();
            async move { tcp.write_all(said.as_bytes()).await.unwrap() }
        })
        .await;
        mesh.workload(&name, address, |workload| {
            let ports = workload.services.values().next().unwrap().clone();
            workload.services = [(key.clone(), ports)].into();
        });
    }
    mesh.connection_routes(&[tcp(vec![to("v1", 1)])]);
    let kept = mesh.greeting(80).await;
    for _ in 0..20 {
        assert_eq!(mesh.greeting(80).await, kept);
    }
}
