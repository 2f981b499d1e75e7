use ambit_e2e::sample::Seen;

use super::*;
use crate::server;

const LIMIT: Duration = Duration::from_secs(10);

/// A server that lives as long as the test process.
fn server() -> [SocketAddr; 3] {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let bound = server::bind(any, any, any).unwrap();
    let addresses = bound.addresses();
    thread::spawn(move || bound.serve("s"));
    addresses
}

/// A port that nothing listens on.
fn closed() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// A client that lives as long as the test process; returns where its counts are.
fn start(arguments: Arguments) -> Url {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    thread::spawn(move || {
        run(&Arguments {
            stats: port,
            ..arguments
        })
    });
    Url::parse(&format!("http://{port}/stats")).unwrap()
}

fn idle() -> Arguments {
    Arguments {
        http: None,
        tcp: None,
        banner: None,
        stream: None,
        interval: 1,
        timeout: 10_000,
        stats: "127.0.0.1:0".parse().unwrap(),
    }
}

fn stats_when(url: &Url, enough: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + LIMIT;
    loop {
        let body = connect(url.authority(), LIMIT).and_then(|stream| http::get(stream, url));
        if let Ok(body) = body {
            let stats: Stats = serde_json::from_str(&body).unwrap();
            if enough(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "{stats:?}");
        }
        assert!(Instant::now() < deadline, "no counts");
        thread::yield_now();
    }
}

#[test]
fn server_reports_its_peer() {
    let [http, echo, _] = server();
    let stream = connect(&http.to_string(), LIMIT).unwrap();
    let local = stream.local_addr().unwrap();
    let body = http::get(stream, &Url::parse(&format!("http://{http}/")).unwrap()).unwrap();
    let seen: Seen = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (seen.peer, seen.server.as_str(), seen.payload.as_str()),
        (local, "s", MARKER)
    );
    let mut stream = connect(&echo.to_string(), LIMIT).unwrap();
    for word in ["one", "two"] {
        assert!(
            exchange(&mut stream, word)
                .unwrap()
                .starts_with(&format!("{MARKER} {word} {{"))
        );
    }
}

#[test]
fn every_kind_of_traffic_is_counted() {
    let [http, echo, banner] = server();
    let url = start(Arguments {
        http: Some(format!("http://{http}/")),
        tcp: Some(echo.to_string()),
        banner: Some(banner.to_string()),
        stream: Some(echo.to_string()),
        ..idle()
    });
    let stats = stats_when(&url, |stats| {
        stats.flows.len() == 4 && stats.flows.values().all(|flow| flow.ok >= 5)
    });
    assert_eq!(stats.total_failed(), 0, "{stats:?}");
    assert_eq!(stats.flows["stream"].connections, 1);
    assert!(stats.flows["tcp"].connections >= 5);
}

/// Responds to one line, then nothing any more.
fn answers_once() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        writeln!(stream, "{MARKER}").unwrap();
    });
    address
}

#[test]
fn failures_are_recorded_and_client_continues() {
    let url = start(Arguments {
        tcp: Some(closed()),
        banner: Some(answers_once()),
        ..idle()
    });
    let stats = stats_when(&url, |stats| {
        let flow = |name: &str| stats.flows.get(name).copied().unwrap_or_default();
        flow("tcp").early >= 3 && flow("banner").failed >= 3
    });
    let (tcp, banner) = (stats.flows["tcp"], stats.flows["banner"]);
    assert_eq!((tcp.ok, tcp.failed, tcp.connections, banner.ok), (0, 0, 0, 1));
    let failure = &stats.failures[0];
    assert!(
        failure.flow == "banner" && !failure.error.is_empty(),
        "{failure:?}"
    );
    assert!(failure.connection_begun <= failure.seen);
}
