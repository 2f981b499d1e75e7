//! Connections to endpoints, and which CONNECTs are taken.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneIo, OpenError};
use http::{Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::support::*;
use crate::http::HttpTimeouts;

#[tokio::test]
async fn what_is_not_served_is_refused() {
    let mesh = Mesh::new().await;
    for address in ["10.96.0.9:80", "10.96.0.1:7"] {
        let error = mesh.open(address.parse().unwrap()).await.unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Refused {
                    status: StatusCode::NOT_FOUND,
                    ..
                }
            ),
            "{address}: {error}"
        );
    }
    assert_eq!(mesh.metric(&["refused", "authority"]), 2);
}

#[tokio::test]
async fn a_connect_waits_for_configuration_that_is_under_way() {
    let mesh = Mesh::new().await;
    let address: SocketAddr = "10.96.0.2:80".parse().unwrap();
    let open = mesh.open(address);
    tokio::pin!(open);
    assert!(futures::poll!(&mut open).is_pending());
    let service = ambit_wire::waypoint::Service {
        namespace: "shop".into(),
        name: "new".into(),
        hostname: "new.shop.svc.cluster.local".into(),
        addresses: vec![vec![10, 96, 0, 2]],
        ports: vec![ambit_wire::waypoint::ServicePort {
            port: 80,
            protocol: 0,
            ..Default::default()
        }],
        ..Default::default()
    };
    mesh.state
        .apply_services(&[], [("shop/new.shop.svc.cluster.local".to_owned(), service)]);
    assert!(open.await.is_ok());
}

#[tokio::test]
async fn clients_share_connections_to_endpoints() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    for _ in 0..5 {
        assert_eq!(mesh.http1(80).await.get("/").await.0, StatusCode::OK);
    }
    assert_eq!(application.connections.load(Ordering::SeqCst), 1);
    for _ in 0..5 {
        let request = Request::get("http://server/").body(full("")).unwrap();
        assert_eq!(mesh.http2(80).await.send(request).await.status(), StatusCode::OK);
    }
    // One more, for HTTP/2.
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn reused_address_gets_no_pooled_connection() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    mesh.remove("server-1");
    assert_eq!(client.get("/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    mesh.endpoint("server-2", application.address);
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_at_the_endpoint() {
    let mesh = Mesh::new().await;
    let (gone, mut went) = tokio::sync::mpsc::unbounded_channel::<()>();
    let address = raw_application(move |mut tcp, _| {
        let gone = gone.clone();
        async move {
            read_head(&mut tcp).await;
            // No answer: only the end of the connection wakes it.
            read_head(&mut tcp).await;
            gone.send(()).unwrap();
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut client = mesh.http1(80).await;
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let answer = tokio::spawn(async move { client.try_send(request).await.is_ok() });
    while mesh.observer.load().in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    answer.abort();
    tokio::time::timeout(WAIT, went.recv()).await.unwrap().unwrap();
    assert_eq!(mesh.observer.load().in_flight(), 0);
    assert_eq!(mesh.metric(&["istio_requests_total", "response_flags=\"DC\""]), 1);
}

/// hyper takes an empty line for the beginning of a head, and would wait for the rest of it.
#[tokio::test]
async fn idle_clients_are_let_go_after_an_empty_line_too() {
    let timeouts = HttpTimeouts {
        idle: Duration::from_secs(1),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let application = Application::echo().await;
    mesh.endpoint("server", application.address);
    for said in ["\r\n", "GET / HTTP/1.1\r\nhost: server\r\n\r\n\r\n"] {
        let mut io = mesh.connect(81).await;
        io.write_all(said.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(WAIT, read_all(&mut io)).await.unwrap();
        assert_eq!(answer.starts_with("HTTP/1.1 200"), said.len() > 2, "{answer}");
    }
}

#[tokio::test]
async fn idle_connections_to_endpoints_are_closed_and_not_reset() {
    let mesh = Mesh::new().await;
    let (ended, mut how) = tokio::sync::mpsc::unbounded_channel();
    let ip = own_address();
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        ended.send(tcp.read_u8().await.unwrap_err().kind()).unwrap();
    });
    let _ztunnel = mesh.hbone_endpoint("server-1", address).await;
    assert_eq!(mesh.http1(80).await.get("/").await.2, "ok");
    mesh.remove("server-1");
    let kind = tokio::time::timeout(WAIT, how.recv()).await.unwrap().unwrap();
    assert_eq!(kind, std::io::ErrorKind::UnexpectedEof);
    mesh.drain.cancel();
    assert_eq!(mesh.proxies.drained(WAIT).await, 0);
}

/// It closes about when the next request is sent: that hung for ever now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endpoint_that_closes_at_any_moment_leaves_no_request_without_an_answer() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, number| {
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        for _ in 0..number % 32 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let clients = (0..4).map(async |_| {
        let mut client = mesh.http1(80).await;
        for _ in 0..250 {
            assert_eq!(client.get("/").await.2, "ok");
        }
    });
    futures::future::join_all(clients).await;
}

/// However busy they are.
#[tokio::test]
async fn connections_to_endpoints_end_at_their_age() {
    let mesh = Mesh::with(HttpTimeouts {
        age: Duration::from_millis(50),
        ..HttpTimeouts::default()
    })
    .await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    for port in [81, 8080] {
        let before = application.connections.load(Ordering::SeqCst);
        let mut client = mesh.http1(port).await;
        let asking = async {
            while application.connections.load(Ordering::SeqCst) < before + 3 {
                assert_eq!(client.get("/").await.0, StatusCode::OK);
            }
        };
        tokio::time::timeout(WAIT, asking).await.unwrap();
    }
}

/// Whoever needs a place on a connection gets one that becomes free, while the attempt to make another connection hangs.
#[tokio::test]
async fn a_slow_connect_does_not_hold_up_requests_that_find_another_place() {
    let mesh = Mesh::new().await;
    let (go, begun) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(0)));
    let (wait, seen) = (Arc::clone(&go), Arc::clone(&begun));
    let address = raw_application_at(own_address(), move |tcp, _| {
        let (wait, seen) = (Arc::clone(&wait), Arc::clone(&seen));
        let service = service_fn(move |_| {
            let wait = Arc::clone(&wait);
            seen.add_permits(1);
            async move {
                wait.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Response::new(full("done")))
            }
        });
        async move {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(1)
                .serve_connection(TokioIo::new(tcp), service)
                .await;
            drop(served);
        }
    })
    .await;
    let ztunnel = mesh.hbone_endpoint("server-1", address).await;
    let client = mesh.http2(8080).await;
    let get = || {
        let mut client = client.clone();
        let request = Request::get("http://server/").body(full("")).unwrap();
        tokio::spawn(async move { whole(client.send(request).await).await.2 })
    };
    // With its answer the endpoint has said how many it allows.
    assert_eq!(get().await.unwrap(), "done");
    let first = get();
    begun.acquire_many(2).await.unwrap().forget();
    let _held = ztunnel.streams.lock().await;
    let second = get();
    mesh.counts(&["ambit_waypoint_requests_in_flight"], 2).await;
    go.add_permits(2);
    for answer in [first, second] {
        assert_eq!(tokio::time::timeout(WAIT, answer).await.unwrap().unwrap(), "done");
    }
}

#[tokio::test]
async fn an_http2_endpoint_is_sent_as_many_requests_on_a_connection_as_it_allows() {
    let mesh = Mesh::new().await;
    let (heads, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let go = Arc::new(Semaphore::new(1));
    let (seen, opened, wait) = (Arc::clone(&heads), Arc::clone(&connections), Arc::clone(&go));
    let address = raw_application(move |tcp, _| {
        opened.fetch_add(1, Ordering::SeqCst);
        let (seen, wait) = (Arc::clone(&seen), Arc::clone(&wait));
        let service = service_fn(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            let wait = Arc::clone(&wait);
            async move {
                wait.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Response::new(full("done")))
            }
        });
        async move {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(2)
                .serve_connection(TokioIo::new(tcp), service)
                .await;
            drop(served);
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let client = mesh.http2(8080).await;
    let get = || {
        let mut client = client.clone();
        let request = Request::get("http://server/").body(full("")).unwrap();
        tokio::spawn(async move { whole(client.send(request).await).await.2 })
    };
    // With its answer the endpoint has said how many it allows.
    assert_eq!(get().await.unwrap(), "done");
    let answers: Vec<_> = (0..5).map(|_| get()).collect();
    let all = async {
        while heads.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, all).await.unwrap();
    assert!(connections.load(Ordering::SeqCst) >= 3);
    go.add_permits(5);
    for answer in answers {
        assert_eq!(answer.await.unwrap(), "done");
    }
}

const DATA: u8 = 0;
const GOAWAY: u8 = 7;

/// A frame's kind and payload; `None` at the end.
async fn frame(io: &mut HboneIo) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let mut header = [0; 9];
        io.read_exact(&mut header).await.ok()?;
        let [a, b, c, kind, ..] = header;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        io.read_exact(&mut payload).await.ok()?;
        Some((kind, payload))
    };
    tokio::time::timeout(WAIT, read).await.unwrap()
}

/// Of the frames that come until `is_last`, the bytes of the DATA frames, and how many were GOAWAY.
async fn frames(io: &mut HboneIo, is_last: impl Fn(u8, usize) -> bool) -> (usize, usize) {
    let (mut data, mut goaways) = (0, 0);
    while let Some((kind, payload)) = frame(io).await {
        data += if kind == DATA { payload.len() } else { 0 };
        goaways += usize::from(kind == GOAWAY);
        if is_last(kind, data) {
            break;
        }
    }
    (data, goaways)
}

/// h2 waits for the answer to the PING that goes with GOAWAY. These clients give none: the one that has got all is let go; the one that is
/// slow to read gets all before.
#[tokio::test]
async fn http2_clients_that_answer_no_ping_are_let_go_once_they_have_got_all() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // HEADERS with END_STREAM and END_HEADERS on stream 1: GET, http, "/", "server".
    const GET: &[u8] = b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\x41\x06server";
    const WINDOW: usize = 65_535;
    let mesh = Mesh::with(HttpTimeouts {
        farewell: Duration::from_millis(50),
        ..HttpTimeouts::default()
    })
    .await;
    let application = Application::start(async |_| Response::new(full(vec![b'x'; WINDOW + 1]))).await;
    mesh.endpoint("server-1", application.address);
    // Its last byte waits in h2, when all has been said.
    let mut slow = mesh.connect(8080).await;
    slow.write_all(&[PREFACE, GET].concat()).await.unwrap();
    let (data, _) = frames(&mut slow, |_, data| data == WINDOW).await;
    assert_eq!(data, WINDOW);
    let mut idle = mesh.connect(8080).await;
    idle.write_all(PREFACE).await.unwrap();
    frame(&mut idle).await.unwrap();
    mesh.drain.cancel();
    // Another one with the identifier of the last stream.
    assert_eq!(frames(&mut idle, |_, _| false).await, (0, 2));
    // The slow one has been told by now, for as long. WINDOW_UPDATE of its connection and of its stream:
    for stream in [0, 1] {
        let update = [0, 0, 4, 8, 0, 0, 0, 0, stream, 0, 0, 0xff, 0xff];
        slow.write_all(&update).await.unwrap();
    }
    assert_eq!(frames(&mut slow, |_, _| false).await, (1, 2));
    assert_eq!(mesh.proxies.drained(WAIT).await, 0);
}

/// An application that sends a body where HTTP has none: what it says then looks like a response to the next request.
#[tokio::test]
async fn body_after_a_response_without_one_reaches_no_other_request() {
    const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let cases = [
        ("HEAD", "200 OK\r\ncontent-length: 45", false),
        ("HEAD", "200 OK", false),
        ("HEAD", "404 Not Found\r\ntransfer-encoding: chunked", false),
        ("GET", "204 No Content\r\ncontent-length: 45", false),
        ("GET", "304 Not Modified\r\ncontent-length: 45", false),
        ("GET", "304 Not Modified\r\ntransfer-encoding: chunked", false),
        ("GET", "204 No Content", true),
        ("GET", "204 No Content\r\ncontent-length: 0", true),
        ("GET", "304 Not Modified\r\netag: \"1\"", true),
    ];
    for (method, head, reused) in cases {
        let mesh = Mesh::new().await;
        let (began, mut connections) = tokio::sync::mpsc::unbounded_channel();
        let address = raw_application(move |mut tcp, number| {
            began.send(()).unwrap();
            async move {
                while let Some(path) = read_head(&mut tcp).await.split(' ').nth(1) {
                    let answer = match path {
                        "/without" => format!("HTTP/1.1 {head}\r\n\r\n"),
                        // The body is late.
                        _ if number == 0 && !reused => POISON.to_owned(),
                        _ => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nown".to_owned(),
                    };
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        mesh.endpoint("server-1", address);
        let mut client = mesh.http1(80).await;
        let request = Request::builder()
            .method(method)
            .uri("/without")
            .header("host", "server");
        let first = whole(client.send(request.body(full("")).unwrap()).await).await;
        assert_eq!(first.0.as_str(), &head[..3], "{method}, {head}");
        let (status, _, body) = mesh.http1(80).await.get("/next").await;
        assert_eq!((status, &*body), (StatusCode::OK, "own"), "{method}, {head}");
        let mut opened = 0;
        while connections.try_recv().is_ok() {
            opened += 1;
        }
        assert_eq!(opened, if reused { 1 } else { 2 }, "{method}, {head}");
    }
}
