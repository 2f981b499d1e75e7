//! What is open when its destination is no longer served here: WebSockets, and connections that are no HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch};
use ambit_wire::workload::GatewayAddress;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::support::*;
use super::upgrades::{by_caller, deny, ends, goes_on, not_the_client, open, shouting, shouting_raw};
use crate::http::HttpTimeouts;

async fn mesh(drain_deadline: Duration) -> Mesh {
    Mesh::with(HttpTimeouts {
        drain_deadline,
        ..HttpTimeouts::default()
    })
    .await
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A connection of each kind in turn, with the metric that counts its end.
async fn each(drain_deadline: Duration, then: impl AsyncFn(&Mesh, &mut dyn Io, &Semaphore, &'static str)) {
    for websocket in [true, false] {
        let mesh = mesh(drain_deadline).await;
        let gone = Arc::new(Semaphore::new(0));
        let application = shouting(&gone, None).await;
        let address = if websocket {
            application.address
        } else {
            shouting_raw(&gone).await
        };
        mesh.endpoint("server-1", address);
        if websocket {
            then(&mesh, &mut open(&mesh).await, &gone, "istio_requests_total").await;
        } else {
            let mut io = mesh.connect(9000).await;
            goes_on(&mut io).await;
            then(&mesh, &mut io, &gone, "istio_tcp_connections_closed_total").await;
        }
    }
}

#[tokio::test]
async fn what_is_open_ends_at_the_drain_deadline() {
    let deadline = Duration::from_millis(100);
    each(deadline, async |mesh, mut io, gone, metric| {
        let before = Instant::now();
        mesh.unbind();
        ends(&mut io, gone).await;
        assert!(before.elapsed() >= deadline);
        mesh.counts(&[metric, "response_flags=\"LR\""], 1).await;
        assert_eq!(mesh.metric(&["ambit_requests_denied_total"]), 0);
    })
    .await;
}

#[tokio::test]
async fn policies_for_connections_hold_until_then() {
    each(WAIT, async |mesh, mut io, gone, metric| {
        mesh.unbind();
        goes_on(&mut io).await;
        mesh.state
            .apply_authorizations(&[], vec![not_the_client(Scope::WorkloadSelector)]);
        goes_on(&mut io).await;
        mesh.state
            .apply_authorizations(&[], vec![not_the_client(Scope::Namespace)]);
        ends(&mut io, gone).await;
        mesh.counts(&[metric, "response_flags=\"DENY\""], 1).await;
        mesh.counts(&["ambit_requests_denied_total", "not-the-client"], 1)
            .await;
    })
    .await;
}

#[tokio::test]
async fn what_holds_for_a_pod_that_is_no_endpoint_here_any_more_denies_nothing() {
    // Longer than a policy that is not there yet is waited for.
    let mesh = mesh(Duration::from_secs(3)).await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    let clients = Policy {
        action: Action::Allow,
        rules: vec![Rule(vec![Clause(vec![Match {
            principals: vec![StringMatch::Exact(CLIENT.into())],
            ..Match::default()
        }])])],
        ..not_the_client(Scope::WorkloadSelector)
    };
    let name = clients.name.to_string();
    mesh.state.apply_authorizations(&[], vec![clients]);
    mesh.workload("server-1", application.address, |workload| {
        workload.authorization_policies = vec![name.clone()];
    });
    let mut io = open(&mesh).await;
    mesh.unbind();
    mesh.remove("server-1");
    mesh.state.apply_authorizations(&[name], vec![]);
    goes_on(&mut io).await;
    ends(&mut io, &gone).await;
    mesh.counts(&["istio_requests_total", "response_flags=\"LR\""], 1)
        .await;
    assert_eq!(mesh.metric(&["ambit_requests_denied_total"]), 0);
}

#[tokio::test]
async fn what_is_open_to_a_service_that_comes_back_stays_and_its_rules_hold() {
    let deadline = Duration::from_secs(2);
    let mesh = mesh(deadline).await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.endpoint("server-1", application.address);
    let mut io = open(&mesh).await;
    mesh.unbind();
    mesh.remove("server-1");
    let unbound = Instant::now();
    goes_on(&mut io).await;
    mesh.endpoint("server-1", application.address);
    mesh.bind();
    while unbound.elapsed() < deadline + Duration::from_millis(500) {
        goes_on(&mut io).await;
    }
    mesh.policy(deny("changed", by_caller));
    ends(&mut io, &gone).await;
    mesh.counts(&["ambit_requests_denied_total", "shop/changed/no"], 1)
        .await;
}

#[tokio::test]
async fn a_pod_that_is_bound_no_longer_ends_what_is_open_too() {
    let mesh = mesh(Duration::from_millis(100)).await;
    let gone = Arc::new(Semaphore::new(0));
    let address = shouting_raw(&gone).await;
    mesh.workload("server-1", address, |workload| {
        workload.waypoint = Some(GatewayAddress::default());
    });
    let mut io = mesh.open(address).await.unwrap();
    goes_on(&mut io).await;
    mesh.workload("server-1", address, |_| {});
    ends(&mut io, &gone).await;
    mesh.counts(
        &["istio_tcp_connections_closed_total", "response_flags=\"LR\""],
        1,
    )
    .await;
}
