use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

const WAIT: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);
/// More than the buffers between two sockets hold.
const LARGE: usize = 64 << 20;

async fn start() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    start_within(LIMITS).await
}

async fn start_within(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let answer = |path: &str| match path {
        "/ready" => Some(Answer::ready(Some("waiting"))),
        "/dump" => Some(Answer::json("{}")),
        "/large" => Some(Answer::json(" ".repeat(LARGE))),
        _ => None,
    };
    let server = tokio::spawn(serve_within(limits, "test", listener, shutdown.clone(), answer));
    (address, shutdown, server)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn paths_are_answered_and_others_are_not() {
    let (address, shutdown, server) = start().await;
    let ready = ask(address, "GET /ready").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.ends_with("not ready: waiting\n"), "{ready}");
    let dump = ask(address, "GET /dump?pretty").await;
    assert!(
        dump.starts_with("HTTP/1.1 200 ") && dump.ends_with("{}"),
        "{dump}"
    );
    assert!(dump.contains("content-type: application/json"), "{dump}");
    assert!(ask(address, "GET /other").await.starts_with("HTTP/1.1 404 "));
    assert!(ask(address, "POST /dump").await.starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "HEAD /dump").await.ends_with("\r\n\r\n"));
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let (address, shutdown, server) = start().await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /dump HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    shutdown.cancel();
    server.await.unwrap();
}

/// A client that asks for much and reads only that it comes.
async fn stalled(address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut begin = [0; 12];
    tcp.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    tcp
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever_for_clients_that_do_not_read() {
    let limits = Limits {
        answer: NEVER,
        grace: Duration::from_millis(100),
        ..LIMITS
    };
    let (address, shutdown, server) = start_within(limits).await;
    let _stalled = stalled(address).await;
    shutdown.cancel();
    tokio::time::timeout(WAIT, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_lets_answers_end() {
    let limits = Limits {
        answer: NEVER,
        grace: NEVER,
        ..LIMITS
    };
    let (address, shutdown, server) = start_within(limits).await;
    let mut slow = stalled(address).await;
    shutdown.cancel();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() >= LARGE, "{}", rest.len());
    tokio::time::timeout(WAIT, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_given_up() {
    let limits = Limits {
        answer: Duration::from_millis(100),
        grace: NEVER,
        ..LIMITS
    };
    let (address, shutdown, server) = start_within(limits).await;
    let _stalled = stalled(address).await;
    shutdown.cancel();
    tokio::time::timeout(WAIT, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_connection_too_many_ends_the_oldest() {
    let limits = Limits {
        connections: 2,
        answer: NEVER,
        grace: NEVER,
    };
    let (address, _shutdown, _server) = start_within(limits).await;
    let mut oldest = stalled(address).await;
    let mut other = stalled(address).await;
    let ready = ask(address, "GET /ready").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    let mut rest = Vec::new();
    // It may be reset.
    let _ = oldest.read_to_end(&mut rest).await;
    assert!(rest.len() < LARGE, "{}", rest.len());
    rest.clear();
    other.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() >= LARGE, "{}", rest.len());
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_wins_no_time() {
    let (mut client, server) = tokio::io::duplex(16);
    let mut server = Deadline::new(server, Duration::from_millis(100));
    let reading = async {
        while client.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let writing = async {
        // What is written in time takes none from what comes later.
        server.write_all(b"a little").await.unwrap();
        server.flush().await.unwrap();
        let late = server.write_all(&vec![b' '; 1 << 20]).await.unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
    };
    tokio::select! {
        () = reading => unreachable!("the server's end is open"),
        () = writing => {}
    }
}

/// What every program's metrics have, whatever else it counts.
#[tokio::test]
async fn every_program_has_its_version_and_its_process_in_its_metrics() {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let answer = |path: &str| {
        let metrics = || crate::render_metrics("ztunnel", &prometheus::Registry::new(), &[]);
        crate::is_metrics_path(path).then(|| Answer::text_or_error(metrics()))
    };
    let server = tokio::spawn(serve("test", listener, shutdown.clone(), answer));
    let build = format!(
        "\nistio_build{{component=\"ztunnel\",tag=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    for path in ["/metrics", "/stats/prometheus"] {
        let text = ask(address, &format!("GET {path}")).await;
        assert!(text.contains(&build), "{text}");
        let value = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value
                .unwrap_or_else(|| panic!("no {name} in {text}"))
                .parse::<f64>()
                .unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        // Not before this was written, and not in the future.
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started > 1.7e9 && started < now + 60.0, "{started}");
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_resident_memory_bytes") > 4096.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        // At least the listener, this connection's two ends and the three standard streams.
        let open = value("process_open_fds");
        assert!(open >= 4.0 && open <= value("process_max_fds"), "{open}");
    }
    shutdown.cancel();
    server.await.unwrap();
}
