//! Endpoints that join and leave the mesh before this waypoint hears of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_wire::workload::TunnelProtocol;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::http::HttpTimeouts;

const IN_FLIGHT: &[&str] = &["ambit_waypoint_requests_in_flight"];

async fn application() -> Application {
    Application::start_at(own_address(), echo).await
}

/// A pod that is known as one that is reached in plaintext, though it takes identities only.
fn joins(mesh: &Mesh, name: &str, application: &Application) {
    mesh.workload(name, application.address, |pod| pod.identities_only = true);
}

/// A pod that is known as one that is reached over HBONE; nobody listens for that.
fn leaves(mesh: &Mesh, name: &str, application: &Application) {
    mesh.workload(name, application.address, |pod| {
        pod.set_tunnel_protocol(TunnelProtocol::Hbone);
    });
}

/// Its node redirects already: plaintext would be refused.
#[tokio::test]
async fn an_endpoint_that_joins_is_waited_for() {
    let (mesh, application) = (Mesh::new().await, application().await);
    joins(&mesh, "server-1", &application);
    let (mut http1, mut http2) = (mesh.http1(80).await, mesh.http2(8080).await);
    // It is not sent twice.
    let post = |uri| Request::post(uri).header("host", "server").body(full("order"));
    let heard = async {
        mesh.counts(IN_FLIGHT, 2).await;
        mesh.hbone_endpoint("server-1", application.address).await
    };
    let (ztunnel, first, second) = tokio::join!(
        heard,
        http1.send(post("/").unwrap()),
        http2.send(post("http://server/").unwrap()),
    );
    assert_eq!(
        (first.status(), second.status()),
        (StatusCode::OK, StatusCode::OK)
    );
    assert!(whole(first).await.2.ends_with("order"));
    assert!(whole(second).await.2.ends_with("order"));
    assert_eq!(*ztunnel.peers.lock(), [id("waypoint")]);
    assert_eq!(application.seen(), 2);
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
}

/// The other order: its redirection is gone.
#[tokio::test]
async fn an_endpoint_that_has_left_is_reached_once_that_is_heard() {
    let (mesh, application) = (Mesh::new().await, application().await);
    leaves(&mesh, "server-1", &application);
    let (mut http1, mut http2) = (mesh.http1(80).await, mesh.http2(8080).await);
    let post = |uri| Request::post(uri).header("host", "server").body(full("order"));
    let heard = async {
        mesh.counts(IN_FLIGHT, 2).await;
        mesh.endpoint("server-1", application.address);
    };
    let ((), first, second) = tokio::join!(
        heard,
        http1.send(post("/").unwrap()),
        http2.send(post("http://server/").unwrap()),
    );
    assert_eq!(
        (first.status(), second.status()),
        (StatusCode::OK, StatusCode::OK)
    );
    assert_eq!(application.seen(), 2);
}

/// All of them leave, and none is tried so often that nothing is left to try.
#[tokio::test]
async fn endpoints_that_have_all_left_are_reached_once_that_is_heard() {
    let (mesh, applications) = (
        Mesh::new().await,
        [application().await, application().await, application().await],
    );
    let names = ["server-1", "server-2", "server-3"];
    for (name, application) in names.iter().zip(&applications) {
        leaves(&mesh, name, application);
    }
    let mut client = mesh.http1(80).await;
    let heard = async {
        mesh.counts(IN_FLIGHT, 1).await;
        for (name, application) in names.iter().zip(&applications) {
            mesh.endpoint(name, application.address);
        }
    };
    let ((), (status, ..)) = tokio::join!(heard, client.get("/"));
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn connections_that_are_no_http_wait_too() {
    for leaving in [false, true] {
        let mesh = Mesh::new().await;
        let address = raw_application_at(own_address(), async |mut tcp, _| {
            let (mut read, mut write) = tcp.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        })
        .await;
        mesh.workload("server-1", address, |pod| match leaving {
            true => pod.set_tunnel_protocol(TunnelProtocol::Hbone),
            false => pod.identities_only = true,
        });
        let mut io = mesh.connect(9000).await;
        io.write_all(b"hello").await.unwrap();
        mesh.counts(IN_FLIGHT, 1).await;
        let mut ztunnel = None;
        match leaving {
            true => mesh.endpoint("server-1", address),
            false => ztunnel = Some(mesh.hbone_endpoint("server-1", address).await),
        }
        let mut answer = [0; 5];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        if let Some(ztunnel) = ztunnel {
            assert_eq!(*ztunnel.peers.lock(), [id("waypoint")]);
        }
    }
}

/// News are not waited for where there is another endpoint.
#[tokio::test]
async fn another_endpoint_is_not_kept_waiting_for() {
    // Longer than a client here waits.
    let mesh = Mesh::with(HttpTimeouts {
        skew: WAIT * 2,
        ..HttpTimeouts::default()
    })
    .await;
    let applications = [application().await, application().await, application().await];
    joins(&mesh, "server-1", &applications[0]);
    leaves(&mesh, "server-2", &applications[1]);
    mesh.endpoint("server-3", applications[2].address);
    let mut client = mesh.http1(80).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.0, StatusCode::OK);
    }
    assert_eq!(applications[0].seen() + applications[1].seen(), 0);
}

/// It is waited for anew, though nobody has waited for the news of the first time, as there was another endpoint.
#[tokio::test]
async fn an_endpoint_that_joins_again_is_waited_for_again() {
    let mesh = Mesh::with(HttpTimeouts {
        skew: Duration::from_secs(1),
        ..HttpTimeouts::default()
    })
    .await;
    let applications = [application().await, application().await];
    joins(&mesh, "server-1", &applications[0]);
    mesh.endpoint("server-2", applications[1].address);
    let left = || {
        let skew = &mesh.proxy.skew;
        skew.joins_within(mesh.state.mesh(), "cluster//Pod/shop/server-1")
    };
    let mut client = mesh.http1(80).await;
    for goes_away in [false, true] {
        tokio::time::timeout(WAIT, async {
            while !left().is_zero() {
                assert_eq!(client.get("/").await.0, StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
        match goes_away {
            true => mesh.remove("server-1"),
            false => leaves(&mesh, "server-1", &applications[0]),
        }
        joins(&mesh, "server-1", &applications[0]);
        assert!(!left().is_zero(), "gone: {goes_away}");
    }
}

/// News that do not come are not waited for without an end.
#[tokio::test]
async fn expired_wait_uses_the_record() {
    let mesh = Mesh::with(HttpTimeouts {
        skew: Duration::from_millis(50),
        ..HttpTimeouts::default()
    })
    .await;
    let application = application().await;
    // It cannot be captured, say: its node does not redirect.
    joins(&mesh, "server-1", &application);
    let mut client = mesh.http1(80).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.0, StatusCode::OK);
    }
    leaves(&mesh, "server-1", &application);
    let (status, reason, _) = client.get("/").await;
    assert_eq!(
        (status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "upstream: connection refused")
    );
}

/// An endpoint whose node has this guard.
async fn guarded(guard: &'static str) -> (Mesh, Application, Ztunnel) {
    let mesh = Mesh::new().await;
    let application = application().await;
    let ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    ztunnel.guard.lock().0 = Some(guard);
    (mesh, application, ztunnel)
}

/// The guard of the pod's node is older than what this waypoint serves.
#[tokio::test]
async fn late_guard_of_the_own_namespace_is_waited_for() {
    let (mesh, _application, ztunnel) = guarded("shop/ambit-guard-server").await;
    let mut client = mesh.http1(80).await;
    let response = tokio::spawn(async move { client.get("/").await });
    while ztunnel.guard.lock().1 < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ztunnel.guard.lock().0 = None;
    assert_eq!(response.await.unwrap().0, StatusCode::OK);
}

/// No waypoint of this namespace is admitted there, so nothing will change.
#[tokio::test]
async fn guard_of_another_namespace_refuses_at_once() {
    let (mesh, _application, ztunnel) = guarded("bank/ambit-guard-server").await;
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reason.contains("denies the waypoint"), "{reason}");
    // Once, and once more for the endpoint that has not seen the request.
    assert!(ztunnel.guard.lock().1 <= 2);
}
