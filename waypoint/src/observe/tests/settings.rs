//! Sizes and messages, and what the mesh says of metrics.

use super::*;

#[test]
fn bytes_of_the_response_are_counted_with_the_labels_of_the_request() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    for bytes in [100, 5000] {
        let mut record = observer.request(&cart, destination.clone(), &get("/"));
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.sent(&vec![0; bytes]);
        record.end();
    }
    let labels = [
        ("reporter", "waypoint"),
        ("source_workload", "cart"),
        ("destination_workload", "server"),
        ("response_code", "200"),
    ];
    assert_eq!(sum(&observer, "istio_response_bytes_sum", &labels), 5100.0);
    assert_eq!(sum(&observer, "istio_response_bytes_count", &labels), 2.0);
    let small = [labels.as_slice(), &[("le", "256")]].concat();
    assert_eq!(sum(&observer, "istio_response_bytes_bucket", &small), 1.0);
    assert_eq!(sum(&observer, "istio_request_bytes_sum", &labels), 0.0);
    // Only gRPC has messages.
    assert_eq!(lines(&observer, "istio_request_messages_total", &[]), [""; 0]);
}

#[test]
fn messages_of_grpc_are_counted_both_ways() {
    let observer = Observer::new().unwrap();
    let (destination, _) = served();
    let request = Request::post("/pkg.Svc/Call").header("content-type", "application/grpc");
    let cart = source(&observer, "cart");
    let mut record = observer.request(&cart, destination, &request.body(()).unwrap());
    let mut body = record.request_body();
    // Two messages, of two bytes and of none; in three parts.
    let messages = [0, 0, 0, 0, 2, 8, 9, 0, 0, 0, 0, 0];
    for part in messages.chunks(5) {
        body.read(part);
    }
    record.answered(StatusCode::OK, &HeaderMap::new());
    record.sent(&messages);
    record.sent(&messages[..7]);
    record.end();
    let grpc = [("request_protocol", "grpc")];
    assert_eq!(sum(&observer, "istio_request_messages_total", &grpc), 2.0);
    assert_eq!(sum(&observer, "istio_response_messages_total", &grpc), 3.0);
    assert_eq!(sum(&observer, "istio_response_bytes_sum", &grpc), 19.0);
}

#[test]
fn labels_are_dropped_and_come_back_while_requests_go_on() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let sources = ["cart", "checkout"].map(|account| source(&observer, account));
    let one_each = || {
        for source in &sources {
            let mut record = observer.request(source, destination.clone(), &get("/"));
            record.sent_to(&endpoint);
            record.answered(StatusCode::OK, &HeaderMap::new());
            record.end();
        }
    };
    let mut connection = observer.connection(&sources[0], destination.clone());
    connection.opened(&endpoint);
    one_each();
    assert_eq!(lines(&observer, "istio_requests_total", &[]).len(), 2);
    let of_the_source = [
        "source_workload",
        "source_principal",
        "source_app",
        "source_canonical_service",
        "destination_principal",
    ];
    observer.apply(&MetricsSettings {
        drop_labels: of_the_source.map(str::to_owned).to_vec(),
        ..MetricsSettings::default()
    });
    one_each();
    for metric in [
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
        "istio_response_bytes_count",
    ] {
        let found = lines(&observer, metric, &[("destination_workload", "server")]);
        assert!(
            found.len() == 1 && found[0].ends_with(" 4"),
            "{metric}: {found:?}"
        );
        let names_source = |label: &&str| found[0].contains(&format!("{label}="));
        assert_eq!(of_the_source.iter().find(|label| names_source(label)), None);
    }
    // A connection that was open goes on in the series that took its own's place.
    {
        use ambit_hbone::Meter;
        connection.forward(10);
    }
    drop(connection);
    for (metric, value) in [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_received_bytes_total", 10.0),
    ] {
        assert_eq!(sum(&observer, metric, &[]), value, "{metric}");
        assert_eq!(sum(&observer, metric, &[("source_workload", "cart")]), 0.0);
    }
    observer.apply(&MetricsSettings::default());
    one_each();
    let cart = [("source_workload", "cart")];
    assert_eq!(sum(&observer, "istio_requests_total", &cart), 1.0);
    assert_eq!(sum(&observer, "istio_requests_total", &[]), 6.0);
}

/// As Istio's dashboards and Flagger ask for them.
#[test]
fn a_waypoint_reports_for_the_destination_where_it_is_to() {
    let observer = Observer::new().unwrap();
    let (destination, endpoint) = served();
    let cart = source(&observer, "cart");
    let request = || {
        let mut record = observer.request(&cart, destination.clone(), &get("/"));
        record.sent_to(&endpoint);
        record.answered(StatusCode::OK, &HeaderMap::new());
        record.sent(&[0; 10]);
        record.end();
    };
    let reported = |reporter| {
        let labels = [("reporter", reporter), ("destination_workload", "server")];
        [
            "istio_requests_total",
            "istio_request_duration_milliseconds_count",
            "istio_response_bytes_sum",
        ]
        .map(|metric| sum(&observer, metric, &labels))
    };
    let report = |on| {
        observer.apply(&MetricsSettings {
            waypoint_reports_destination: on,
            ..MetricsSettings::default()
        });
    };
    request();
    assert_eq!(reported("destination"), [0.0; 3]);
    report(true);
    request();
    request();
    assert_eq!(reported("destination"), [2.0, 2.0, 20.0]);
    report(false);
    request();
    assert_eq!(reported("destination"), [2.0, 2.0, 20.0]);
    assert_eq!(reported("waypoint"), [4.0, 4.0, 40.0]);
    // The ztunnel of the destination reports connections.
    drop(observer.connection(&cart, destination.clone()));
    let tcp = [("reporter", "destination")];
    assert_eq!(sum(&observer, "istio_tcp_connections_opened_total", &tcp), 0.0);
}
