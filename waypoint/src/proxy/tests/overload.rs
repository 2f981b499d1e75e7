//! One client that takes all it gets, and another beside it.

use std::net::SocketAddr;

use ambit_hbone::OpenError;
use ambit_runtime::Shares;
use http::{Request, Response, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::support::*;
use crate::admission::Admission;
use crate::http::HttpTimeouts;

const REFUSED: &[&str] = &["ambit_waypoint_refused_total", "reason=\"overloaded\""];

async fn mesh(budgets: impl FnOnce(&mut Admission)) -> Mesh {
    let mut admission = Admission::of_process();
    budgets(&mut admission);
    Mesh::taking_on(HttpTimeouts::default(), admission).await
}

fn service(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port)
}

/// Answers all but `/wait`.
async fn patient() -> Application {
    Application::start(async |request: Request<_>| {
        if request.uri().path() == "/wait" {
            std::future::pending::<()>().await;
        }
        Response::new(full("ok"))
    })
    .await
}

fn refused(result: Result<impl Sized, OpenError>) -> bool {
    matches!(
        result,
        Err(OpenError::Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..
        })
    )
}

#[tokio::test]
async fn who_has_half_of_all_requests_in_flight_is_answered_503_and_others_are_served() {
    let mesh = mesh(|budgets| budgets.requests = Shares::new(4)).await;
    let application = patient().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(80).await;
    let request = |path: &str| {
        Request::get(format!("http://server{path}"))
            .body(full(""))
            .unwrap()
    };
    let waiting: Vec<_> = (0..2)
        .map(|_| client.0.send_request(request("/wait")))
        .map(tokio::spawn)
        .collect();
    while application.seen() < 2 {
        tokio::task::yield_now().await;
    }
    let (status, reason, _) = whole(client.send(request("/")).await).await;
    assert_eq!(
        (status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "overloaded")
    );
    mesh.counts(&["istio_requests_total", "response_flags=\"UO\""], 1)
        .await;
    let other = mesh.open_as("other", "127.0.0.1", service(80)).await.unwrap();
    assert_eq!(Http1Client::over(other).await.get("/").await.2, "ok");
    // Places come back with the requests' end.
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    let again = async {
        while client.send(request("/")).await.status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, again).await.unwrap();
}

#[tokio::test]
async fn who_has_half_of_all_connections_is_refused_and_others_are_served() {
    let mesh = mesh(|budgets| budgets.streams = Shares::new(4)).await;
    let application = patient().await;
    mesh.endpoint("server-1", application.address);
    let _open = (mesh.connect(80).await, mesh.connect(80).await);
    assert!(refused(mesh.open(service(80)).await));
    assert_eq!(mesh.metric(REFUSED), 1);
    let other = mesh.open_as("other", "127.0.0.1", service(80)).await.unwrap();
    assert_eq!(Http1Client::over(other).await.get("/").await.2, "ok");
}

#[tokio::test]
async fn who_asks_for_what_is_not_served_keeps_nobody_else_waiting() {
    let mesh = mesh(|budgets| budgets.waiting = Shares::new(4)).await;
    let unknown: SocketAddr = "10.96.7.7:80".parse().unwrap();
    let (first, second, third) = tokio::join!(mesh.open(unknown), mesh.open(unknown), mesh.open(unknown));
    let answers = [refused(first), refused(second), refused(third)];
    assert_eq!(
        answers.iter().filter(|refused| **refused).count(),
        1,
        "{answers:?}"
    );
    assert_eq!(mesh.metric(REFUSED), 1);
    assert_eq!(
        mesh.metric(&["ambit_waypoint_refused_total", "reason=\"authority\""]),
        2
    );
}

#[tokio::test]
async fn silent_handshakes_keep_nobody_out() {
    let mesh = mesh(|budgets| budgets.handshakes = Shares::new(4)).await;
    let application = patient().await;
    mesh.endpoint("server-1", application.address);
    let silent = [
        TcpStream::connect(mesh.address).await.unwrap(),
        TcpStream::connect(mesh.address).await.unwrap(),
    ];
    let mut third = TcpStream::connect(mesh.address).await.unwrap();
    let end = tokio::time::timeout(WAIT, third.read(&mut [0])).await.unwrap();
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    assert_eq!(mesh.metric(REFUSED), 1);
    let other = mesh.open_as("other", "127.0.0.2", service(80)).await.unwrap();
    assert_eq!(Http1Client::over(other).await.get("/").await.2, "ok");
    drop(silent);
    // Its places come back.
    let again = async { while mesh.open_as("client", "127.0.0.1", service(80)).await.is_err() {} };
    tokio::time::timeout(WAIT, again).await.unwrap();
}

#[tokio::test]
async fn who_has_half_of_all_hbone_connections_is_refused_and_others_are_served() {
    let mesh = mesh(|budgets| budgets.connections = Shares::new(4)).await;
    let application = patient().await;
    mesh.endpoint("server-1", application.address);
    let from = |client: &'static str| mesh.open_as(client, "127.0.0.1", service(80));
    let _open = (from("client").await.unwrap(), from("client").await.unwrap());
    assert!(from("client").await.is_err());
    assert!(mesh.metric(REFUSED) > 0);
    let other = from("other").await.unwrap();
    assert_eq!(Http1Client::over(other).await.get("/").await.2, "ok");
}
