//! The waypoint goes, and connections grow old.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::support::*;
use crate::http::HttpTimeouts;

/// Answers when told.
async fn patient() -> (Application, mpsc::UnboundedSender<()>) {
    let (go, wait) = mpsc::unbounded_channel::<()>();
    let wait = std::sync::Arc::new(tokio::sync::Mutex::new(wait));
    let application = Application::start(move |_| {
        let wait = std::sync::Arc::clone(&wait);
        async move {
            wait.lock().await.recv().await;
            Response::new(full("done"))
        }
    })
    .await;
    (application, go)
}

#[tokio::test]
async fn requests_under_way_end_and_idle_connections_go() {
    let timeouts = HttpTimeouts {
        drain_grace: Duration::from_millis(50),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let (application, go) = patient().await;
    mesh.endpoint("server-1", application.address);
    let (mut idle, mut busy, mut busy2) = (mesh.http1(80).await, mesh.http1(80).await, mesh.http2(80).await);
    go.send(()).unwrap();
    assert_eq!(idle.get("/").await.2, "done");
    let request = Request::get("http://server/")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    let request2 = Request::get("http://server/").body(full("")).unwrap();
    let one = tokio::spawn(async move {
        let answer = busy.send(request).await;
        (
            answer.headers().get("connection").cloned(),
            whole(answer).await.2,
            busy,
        )
    });
    let other = tokio::spawn(async move { whole(busy2.send(request2).await).await.2 });
    while application.seen() < 3 {
        tokio::task::yield_now().await;
    }
    mesh.drain.cancel();
    idle.closed().await;
    go.send(()).unwrap();
    go.send(()).unwrap();
    let (connection, body, mut busy) = one.await.unwrap();
    assert_eq!(connection.unwrap(), "close");
    assert_eq!(body, "done");
    busy.closed().await;
    assert_eq!(other.await.unwrap(), "done");
    assert_eq!(mesh.proxies.drained(WAIT).await, 0);
}

#[tokio::test]
async fn the_next_request_is_answered_and_told_to_go_elsewhere() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    mesh.drain.cancel();
    while !mesh.proxy.is_draining() {
        tokio::task::yield_now().await;
    }
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let answer = client.send(request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["connection"], "close");
    whole(answer).await;
    client.closed().await;
}

#[tokio::test]
async fn the_deadline_ends_what_is_left() {
    let mesh = Mesh::new().await;
    let (application, _go) = patient().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let answer = tokio::spawn(async move { client.try_send(request).await.is_err() });
    let _tcp = mesh.connect(9000).await;
    mesh.counts(&["istio_tcp_connections_opened_total"], 1).await;
    while application.seen() == 0 {
        tokio::task::yield_now().await;
    }
    mesh.drain.cancel();
    assert_eq!(mesh.proxies.drained(Duration::from_millis(50)).await, 1);
    assert!(answer.await.unwrap());
    mesh.counts(&["istio_requests_total", "response_flags=\"LR\""], 1)
        .await;
    mesh.counts(
        &["istio_tcp_connections_closed_total", "response_flags=\"LR\""],
        1,
    )
    .await;
}

#[tokio::test]
async fn connections_beyond_the_share_end_between_two_requests() {
    let mesh = Mesh::with(HttpTimeouts {
        settled: Duration::ZERO,
        ..HttpTimeouts::default()
    })
    .await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let (mut one, mut two) = (mesh.http1(80).await, mesh.http2(80).await);
    let (mut idle, mut idle2) = (mesh.http1(80).await, mesh.http2(80).await);
    let request = || {
        Request::get("http://server/")
            .header("host", "server")
            .body(full(""))
            .unwrap()
    };
    for client in [&mut one, &mut idle] {
        let response = client.send(request()).await;
        assert_eq!(response.headers().get("connection"), None, "nothing is to go");
        whole(response).await;
    }
    for client in [&mut two, &mut idle2] {
        assert_eq!(whole(client.send(request()).await).await.0, StatusCode::OK);
    }
    // More than these four carry.
    mesh.observer.load().excess().set(60_000);
    let response = one.send(request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["connection"], "close");
    whole(response).await;
    one.closed().await;
    assert_eq!(whole(two.send(request()).await).await.0, StatusCode::OK);
    while !two.0.is_closed() {
        tokio::task::yield_now().await;
    }
    mesh.counts(&["ambit_waypoint_connections_moved_total"], 2).await;
    // Whoever asks for nothing is not disturbed.
    assert!(!idle2.0.is_closed());
    assert_eq!(idle.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn new_connections_stay_whatever_the_load() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    mesh.observer.load().excess().set(60_000);
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let response = client.send(request).await;
    assert_eq!(response.headers().get("connection"), None);
}

#[tokio::test]
async fn a_service_that_is_not_served_any_more_ends_its_idle_connections() {
    let mesh = Mesh::new().await;
    let (application, go) = patient().await;
    mesh.endpoint("server-1", application.address);
    let mut unused = mesh.connect(81).await;
    let request = || {
        Request::get("http://server/")
            .header("host", "server")
            .body(full(""))
            .unwrap()
    };
    let (mut idle, mut idle2) = (mesh.http1(80).await, mesh.http2(80).await);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(idle.get("/").await.0, StatusCode::OK);
    assert_eq!(whole(idle2.send(request()).await).await.0, StatusCode::OK);
    let (mut busy, mut busy2) = (mesh.http1(80).await, mesh.http2(80).await);
    let (one, other) = (request(), request());
    let one = tokio::spawn(async move { (whole(busy.send(one).await).await, busy) });
    let other = tokio::spawn(async move { whole(busy2.send(other).await).await });
    while application.seen() < 4 {
        tokio::task::yield_now().await;
    }

    mesh.unbind();
    let told = async {
        idle.closed().await;
        while !idle2.0.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, told).await.unwrap();
    assert_eq!(read_all(&mut unused).await, "");
    // What is under way comes to its end, and its connection with it.
    go.send(()).unwrap();
    go.send(()).unwrap();
    let (answer, mut busy) = one.await.unwrap();
    assert_eq!((answer.0, answer.2.as_str()), (StatusCode::OK, "done"));
    assert_eq!(other.await.unwrap().2, "done");
    tokio::time::timeout(WAIT, busy.closed()).await.unwrap();
}

#[tokio::test]
async fn a_request_that_comes_too_late_for_its_service_is_counted() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(80).await;
    let request = || Request::get("http://server/").body(full("")).unwrap();
    assert_eq!(client.send(request()).await.status(), StatusCode::OK);
    mesh.unbind();
    // Before the client has heard of it.
    let (status, reason, _) = whole(client.send(request()).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reason, "this waypoint no longer serves the destination");
    let refused = [
        "istio_requests_total",
        "destination_service_name=\"server\"",
        "response_code=\"503\"",
        "response_flags=\"NR\"",
    ];
    assert_eq!(mesh.metric(&refused), 1);
}

#[tokio::test]
async fn a_pod_that_is_not_served_any_more_ends_its_idle_connections() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    let bound = |workload: &mut ambit_wire::workload::Workload| {
        workload.waypoint = Some(ambit_wire::workload::GatewayAddress::default());
    };
    for unbind in [true, false] {
        mesh.workload("server-1", application.address, bound);
        let mut io = mesh.open(application.address).await.unwrap();
        let request = b"HEAD / HTTP/1.1\r\nhost: server\r\n\r\n";
        io.write_all(request).await.unwrap();
        let mut beginning = [0; 15];
        io.read_exact(&mut beginning).await.unwrap();
        assert_eq!(&beginning, b"HTTP/1.1 200 OK");
        if unbind {
            mesh.workload("server-1", application.address, |_| {});
        } else {
            mesh.remove("server-1");
        }
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(WAIT, io.read_to_end(&mut rest)).await;
        ended.unwrap().unwrap();
    }
}
