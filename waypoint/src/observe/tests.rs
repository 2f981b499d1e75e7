mod settings;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_identity::SpiffeId;
use ambit_policy::{Decision, Reason, Verdict};
use ambit_wire::waypoint::Service;
use ambit_wire::workload::{Port, PortList, Workload};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::*;
use crate::state::{Endpoint, State};

fn address() -> SocketAddr {
    "10.0.9.9:40000".parse().unwrap()
}

/// A service with one endpoint.
fn served() -> (Destination, Endpoint) {
    let state = State::new();
    let service = Service {
        namespace: "shop".into(),
        name: "server".into(),
        hostname: "server.shop.svc.cluster.local".into(),
        addresses: vec![vec![10, 96, 0, 1]],
        ..Default::default()
    };
    let ports = PortList {
        ports: vec![Port {
            service_port: 80,
            target_port: 8080,
            ..Default::default()
        }],
        ..Default::default()
    };
    let pod = Workload {
        uid: "a".into(),
        name: "server-1".into(),
        namespace: "shop".into(),
        workload_name: "server".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        services: [("shop/server.shop.svc.cluster.local".to_owned(), ports)].into(),
        ..Default::default()
    };
    state.apply_services(&[], [(String::new(), service)]);
    state.apply_workloads(&[], [(String::new(), pod)]);
    let (entry, _) = state.service_at(([10, 96, 0, 1], 80).into()).unwrap();
    let endpoint = crate::state::choose(&entry, 80, Default::default(), &[]).unwrap();
    (Destination::Service(entry.config().unwrap()), endpoint)
}

fn source(observer: &Observer, account: &str) -> Arc<Source> {
    let identity = SpiffeId::new("cluster.local", "shop", account).unwrap();
    let baggage = format!("k8s.deployment.name={account},service.name={account},service.version=v1");
    observer.source(identity, address(), Some(baggage.as_bytes()))
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

/// The lines of a metric that have all of these labels.
fn lines(observer: &Observer, metric: &str, labels: &[(&str, &str)]) -> Vec<String> {
    let text = observer.render(&Gauges::default()).unwrap();
    let has = |line: &str| {
        labels
            .iter()
            .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    };
    text.lines()
        .filter(|line| line.starts_with(&format!("{metric}{{")) && has(line))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_request_is_counted_with_both_ends_when_it_ends() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    for _ in 0..3 {
        let mut record = observer.request(&cart, destination.clone(), &get("/orders"));
        assert_eq!(observer.load().in_flight(), 1);
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.end();
    }
    assert_eq!(observer.load().in_flight(), 0);
    let found = lines(
        &observer,
        "istio_requests_total",
        &[
            ("reporter", "waypoint"),
            ("source_workload", "cart"),
            ("source_workload_namespace", "shop"),
            ("source_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
            ("source_canonical_service", "cart"),
            ("source_version", "v1"),
            ("destination_service", "server.shop.svc.cluster.local"),
            ("destination_service_name", "server"),
            ("destination_service_namespace", "shop"),
            ("destination_workload", "server"),
            (
                "destination_principal",
                "spiffe://cluster.local/ns/shop/sa/default",
            ),
            ("request_protocol", "http"),
            ("response_code", "200"),
            ("response_flags", "-"),
            ("connection_security_policy", "mutual_tls"),
        ],
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with(" 3"), "{found:?}");
    let durations = lines(
        &observer,
        "istio_request_duration_milliseconds_count",
        &[("response_code", "200"), ("source_workload", "cart")],
    );
    assert!(
        durations.len() == 1 && durations[0].ends_with(" 3"),
        "{durations:?}"
    );
}

#[test]
fn what_differs_has_series_of_its_own() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    for account in ["cart", "checkout"] {
        let source = source(&observer, account);
        for code in [200, 404] {
            let mut record = observer.request(&source, destination.clone(), &get("/"));
            record.sent_to(&endpoint);
            record.answered(StatusCode::from_u16(code).unwrap(), &HeaderMap::new());
            record.end();
        }
        // Another connection of the same client is the same client.
        let again = self::source(&observer, account);
        let mut record = observer.request(&again, destination.clone(), &get("/"));
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.end();
    }
    assert_eq!(lines(&observer, "istio_requests_total", &[]).len(), 4);
    let cart = lines(
        &observer,
        "istio_requests_total",
        &[("source_workload", "cart"), ("response_code", "200")],
    );
    assert!(cart[0].ends_with(" 2"), "{cart:?}");
}

#[test]
fn denials_audits_and_retries_are_counted_by_rule() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let mut record = observer.request(&cart, destination.clone(), &get("/"));
    record.decided(&Decision {
        verdict: Verdict::Deny,
        reason: Reason::DeniedBy("shop/orders/no-deletes".into()),
        denied_by: None,
        audited: vec!["shop/orders/watched".into()],
    });
    record.answered(StatusCode::FORBIDDEN, &HeaderMap::new());
    record.end();
    let mut record = observer.request(&cart, destination, &get("/"));
    record.sent_to(&endpoint);
    record.retried(Some(&"shop/orders".into()));
    record.retried(None);
    record.answered(StatusCode::OK, &HeaderMap::new());
    record.end();

    let one = |metric, labels: &[_]| {
        let found = lines(&observer, metric, labels);
        assert!(
            found.len() == 1 && found[0].ends_with(" 1"),
            "{metric}: {found:?}"
        );
    };
    let service = ("service", "server.shop.svc.cluster.local");
    one(
        "ambit_requests_denied_total",
        &[("rule", "shop/orders/no-deletes"), service],
    );
    one("ambit_audit_total", &[("rule", "shop/orders/watched"), service]);
    one("ambit_retries_total", &[("policy", "shop/orders"), service]);
    one("ambit_retries_total", &[("policy", ""), service]);
    one(
        "istio_requests_total",
        &[
            ("response_code", "403"),
            ("response_flags", "DENY"),
            ("destination_workload", "unknown"),
        ],
    );
}

#[test]
fn a_client_that_goes_away_is_told_from_an_answer() {
    let observer = Observer::new().unwrap();
    let (destination, _) = served();
    drop(observer.request(&source(&observer, "cart"), destination, &get("/")));
    let gone = lines(
        &observer,
        "istio_requests_total",
        &[("response_code", "0"), ("response_flags", "DC")],
    );
    assert_eq!(gone.len(), 1);
}

#[test]
fn grpc_has_its_own_status() {
    let observer = Observer::new().unwrap();
    let (destination, _) = served();
    let request = Request::post("/pkg.Svc/Call")
        .header("content-type", "application/grpc+proto")
        .body(())
        .unwrap();
    let mut record = observer.request(&source(&observer, "cart"), destination, &request);
    record.answered(StatusCode::OK, &HeaderMap::new());
    record.trailers(&HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("7"),
    )]));
    record.end();
    let found = lines(
        &observer,
        "istio_requests_total",
        &[("request_protocol", "grpc"), ("grpc_response_status", "7")],
    );
    assert_eq!(found.len(), 1);
}

#[test]
fn connections_that_are_no_http_are_opened_and_closed() {
    use ambit_hbone::Meter;
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let mut record = observer.connection(&cart, destination.clone());
    record.opened(&endpoint);
    record.forward(10);
    record.backward(20);
    drop(record);
    let mut denied = observer.connection(&cart, destination);
    denied.failed(Flag::Denied, "denied by shop/orders/no-deletes");
    drop(denied);
    let value = |metric, flag| {
        let found = lines(
            &observer,
            metric,
            &[("response_flags", flag), ("request_protocol", "tcp")],
        );
        found
            .iter()
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>()
    };
    assert_eq!(value("istio_tcp_connections_opened_total", "-"), 2);
    assert_eq!(value("istio_tcp_connections_closed_total", "-"), 1);
    assert_eq!(value("istio_tcp_connections_closed_total", "DENY"), 1);
    assert_eq!(value("istio_tcp_received_bytes_total", "-"), 10);
    assert_eq!(value("istio_tcp_sent_bytes_total", "-"), 20);
}

#[test]
fn bytes_of_the_request_are_counted_by_whoever_reads_them() {
    let observer = Observer::new().unwrap();
    let (destination, _) = served();
    let record = observer.request(&source(&observer, "cart"), destination, &get("/"));
    let mut body = record.request_body();
    body.read(&[0; 7]);
    body.read_bytes(5);
    record.end();
    assert_eq!(sum(&observer, "istio_request_bytes_sum", &[]), 12.0);
    assert_eq!(sum(&observer, "istio_request_bytes_count", &[]), 1.0);
    assert_eq!(sum(&observer, "istio_request_bytes_bucket", &[("le", "64")]), 1.0);
}

/// The sum of a metric's series that have all of these labels.
fn sum(observer: &Observer, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let lines = lines(observer, metric, labels);
    let values = lines.iter().map(|line| line.rsplit(' ').next().unwrap());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

thread_local! {
    /// What this thread logs, while it is collected.
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is logged on a thread that collects it.
struct Sink;

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.iter_mut().for_each(|l| l.extend_from_slice(bytes)));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `act` logs, as JSON. One subscriber serves all threads: with one of this thread's own, a call that another test
/// comes upon first would be taken for one that nobody listens to.
fn logged(act: impl FnOnce()) -> Vec<serde_json::Value> {
    // Fails where it is set already.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(|| Sink)
        .try_init();
    LOGGED.set(Some(Vec::new()));
    act();
    let text = String::from_utf8(LOGGED.take().unwrap()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_access_log_has_both_identities_and_what_decided() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let request = Request::get("/orders/7?token=secret")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .body(())
        .unwrap();
    let serve = || {
        let mut record = observer.request(&cart, destination.clone(), &request);
        record.decided(&Decision {
            verdict: Verdict::Allow,
            reason: Reason::AllowedBy("shop/orders/readers".into()),
            denied_by: None,
            audited: Vec::new(),
        });
        record.sent_to(&endpoint);
        record.retried(Some(&"shop/orders".into()));
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.sent(&[0; 12]);
        record.end();
    };
    let lines = logged(serve);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let expected = serde_json::json!({
        "target": "access",
        "level": "INFO",
        "src.identity": "spiffe://cluster.local/ns/shop/sa/cart",
        "src.addr": "10.0.9.9:40000",
        "src.workload": "cart",
        "dst.service": "server.shop.svc.cluster.local",
        "dst.workload": "server-1",
        "dst.identity": "spiffe://cluster.local/ns/shop/sa/default",
        "upstream": "10.0.0.1:8080",
        "protocol": "http/1.1",
        "http.method": "GET",
        "http.path": "/orders/7",
        "http.status": 200,
        "route": "shop/orders",
        "rule": "shop/orders/readers",
        "retries": 1,
        "flags": "-",
        "bytes_sent": 12,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&lines[0][field], value, "{field} in {}", lines[0]);
    }
    assert!(!lines[0].to_string().contains("secret"));

    observer.set_access_log(false);
    assert!(logged(serve).is_empty());
    let denied = logged(|| {
        let mut record = observer.request(&cart, destination.clone(), &request);
        record.decided(&Decision {
            verdict: Verdict::Deny,
            reason: Reason::DeniedBy("shop/orders/no-reads".into()),
            denied_by: None,
            audited: Vec::new(),
        });
        record.refused_for(&endpoint);
        record.end();
    });
    assert_eq!(denied.len(), 1, "denials are logged in any case");
    assert_eq!(
        denied[0]["dst.identity"],
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    assert_eq!(denied[0].get("upstream"), None, "nothing was sent");
    assert_eq!(denied[0]["reason"], "denied by shop/orders/no-reads");
    assert_eq!(denied[0]["rule"], "shop/orders/no-reads");
    assert_eq!(denied[0]["flags"], "DENY");
    assert_eq!(denied[0]["level"], "WARN");
}

#[test]
fn only_connections_that_the_client_did_not_break_off_are_warned_of() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let open = || {
        let mut record = observer.connection(&cart, destination.clone());
        record.opened(&endpoint);
        record
    };
    let lines = logged(|| {
        let mut routed = open();
        routed.governed_by(&"TCPRoute shop/db rules[0]".into());
        routed.left("the client: reset");
        drop(routed);
        open().failed(Flag::UpstreamReset, "the endpoint: reset");
        let cut = open();
        observer.cut();
        drop(cut);
    });
    assert_eq!(lines[0]["route"], "TCPRoute shop/db rules[0]");
    assert_eq!(lines[1].get("route"), None);
    let said: Vec<_> = lines
        .iter()
        .map(|line| (&line["level"], &line["flags"]))
        .collect();
    assert_eq!(
        said,
        [
            (&"INFO".into(), &"DC".into()),
            (&"WARN".into(), &"UC".into()),
            (&"WARN".into(), &"LR".into()),
        ]
    );
}

#[test]
fn past_the_bound_callers_are_unknown_and_nothing_grows() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    for n in 0..3_500 {
        let caller = source(&observer, &format!("caller-{n}"));
        let mut record = observer.request(&caller, destination.clone(), &get("/"));
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.end();
        observer
            .connection(&caller, destination.clone())
            .opened(&endpoint);
    }
    for metric in [
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_sent_bytes_total",
    ] {
        assert_eq!(lines(&observer, metric, &[]).len(), 3_001, "{metric}");
        let unknown = lines(
            &observer,
            metric,
            &[
                ("source_workload", "unknown"),
                ("destination_workload", "unknown"),
            ],
        );
        assert_eq!(unknown.len(), 1, "{metric}");
        if metric != "istio_tcp_sent_bytes_total" {
            assert!(unknown[0].ends_with(" 500"), "{unknown:?}");
        }
    }
    let overflow = lines(
        &observer,
        "ambit_metrics_overflow_total",
        &[("metric", "istio_requests_total")],
    );
    assert!(overflow[0].ends_with(" 500"), "{overflow:?}");
    for (metric, value) in [
        ("ambit_metrics_series", 3000.0),
        ("ambit_metrics_series_limit", 3000.0),
    ] {
        let labels = [("metric", "istio_requests_total")];
        assert_eq!(sum(&observer, metric, &labels), value, "{metric}");
    }
}

#[test]
fn grpc_statuses_that_are_none_share_a_series() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let mut call = get("/shop.Orders/Get");
    call.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    *call.version_mut() = http::Version::HTTP_2;
    for status in [0, 16, 17, 18, 4711, 65_535] {
        let mut record = observer.request(&cart, destination.clone(), &call);
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.trailers(
            &[("grpc-status".parse().unwrap(), HeaderValue::from(status))]
                .into_iter()
                .collect(),
        );
        record.end();
    }
    assert_eq!(lines(&observer, "istio_requests_total", &[]).len(), 3);
    let other = lines(
        &observer,
        "istio_requests_total",
        &[("grpc_response_status", "other")],
    );
    assert!(other[0].ends_with(" 4"), "{other:?}");
}
