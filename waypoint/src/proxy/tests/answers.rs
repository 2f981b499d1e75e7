//! Requests that are passed on, and the waypoint's own answers.

use super::support::*;
use http::StatusCode;

#[tokio::test]
async fn a_request_goes_through_hbone_on_both_sides() {
    let mesh = Mesh::new().await;
    let ip = own_address();
    let application = Application::start_at(ip, echo).await;
    let ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let mut client = mesh.http1(80).await;
    for number in 1..=3 {
        let (status, _, body) = client.get(&format!("/orders?n={number}")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, format!("GET /orders?n={number}\nhost: server\n\n"));
    }
    assert_eq!(*ztunnel.peers.lock(), [id("waypoint")]);
    // One connection for all of them.
    assert_eq!(
        application.connections.load(std::sync::atomic::Ordering::SeqCst),
        1
    );
}
