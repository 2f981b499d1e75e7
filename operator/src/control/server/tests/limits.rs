//! What callers may have, and for how long.

use std::time::{Duration, SystemTime};

use ambit_wire::ca::IstioCertificateRequest;
use ambit_wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::names::{TYPE_POD_CAPTURE, TYPE_WAYPOINT_SETTINGS};
use futures::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::control::connection::Lifetimes;
use crate::control::serving::{CONNECTIONS, STRANGERS};
use crate::control::testing::{Running, pod, review_of, token_until};

/// A configuration stream that begins with `request`, once its caller is let in.
async fn opened(
    running: &Running,
    token: &str,
    request: DeltaDiscoveryRequest,
) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
    let mut client =
        AggregatedDiscoveryServiceClient::with_interceptor(running.channel(), running.file(token));
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let responses = client.delta_aggregated_resources(requests).await?;
    Ok(responses.into_inner())
}

/// What the stream ends with.
async fn end(mut responses: Streaming<DeltaDiscoveryResponse>) -> Status {
    loop {
        if let Err(status) = responses.message().await {
            return status;
        }
    }
}

/// The first status of a configuration stream that begins with `request`.
async fn refused(running: &Running, token: &str, request: DeltaDiscoveryRequest) -> Status {
    match opened(running, token, request).await {
        Ok(responses) => end(responses).await,
        Err(status) => status,
    }
}

/// A tenant's waypoint cannot fill the operator's memory, by one long message or by many names.
#[tokio::test]
async fn requests_are_limited_by_role() {
    let running = Running::start().await;
    let waypoint = running.cluster.waypoint("shop", "waypoint");
    let ztunnel = running.cluster.ztunnel("one");
    let settings = |names: usize, length: usize| DeltaDiscoveryRequest {
        type_url: TYPE_WAYPOINT_SETTINGS.to_owned(),
        resource_names_subscribe: (0..names).map(|n| format!("{n}{}", "x".repeat(length))).collect(),
        ..Default::default()
    };
    for (n, request) in [settings(1, 5 << 20), settings(50_001, 8)]
        .into_iter()
        .enumerate()
    {
        let status = refused(&running, &waypoint, request).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert_eq!(running.refused("limit"), n as u64 + 1);
    }
    let held = DeltaDiscoveryRequest {
        type_url: TYPE_WAYPOINT_SETTINGS.to_owned(),
        initial_resource_versions: (0..50_001).map(|n| (n.to_string(), String::new())).collect(),
        ..Default::default()
    };
    let status = refused(&running, &waypoint, held).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // A ztunnel holds all workloads of the mesh, and says so: it is only told that the type is none of its own.
    let status = refused(&running, &ztunnel, settings(1, 5 << 20)).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

/// Who was let in once is asked again: with the token, or the pod, the stream ends.
#[tokio::test]
async fn streams_end_with_the_token_and_with_the_pod() {
    let running = Running::start().await;
    let info = pod("ambit-system", "brief", "ambit-agent", "one");
    let brief = token_until("brief-uid", SystemTime::now() + Duration::from_secs(5));
    running.cluster.know(&brief, review_of(&info));
    running.cluster.add(info);
    let request = || DeltaDiscoveryRequest {
        type_url: TYPE_POD_CAPTURE.to_owned(),
        ..Default::default()
    };
    let status = refused(&running, &brief, request()).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("token expires"), "{status}");

    let agent = running.cluster.agent("one");
    let responses = opened(&running, &agent, request()).await.unwrap();
    running.cluster.remove("agent-one-uid");
    let status = end(responses).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

/// A call over a connection of its own, which lasts as long as what is returned; and how it got a response.
async fn call(running: &Running, token: &str) -> (Channel, Code) {
    let channel = running.channel();
    let mut client = IstioCertificateServiceClient::with_interceptor(channel.clone(), running.file(token));
    let answer = client
        .create_certificate(IstioCertificateRequest::default())
        .await;
    (channel, answer.unwrap_err().code())
}

/// One address cannot take all descriptors and memory by connections that are idle.
#[tokio::test]
async fn connections_are_limited_by_address() {
    let running = Running::start().await;
    // It is known, and gets no certificates.
    let agent = running.cluster.agent("one");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS.of_one {
        let (channel, code) = call(&running, &agent).await;
        assert_eq!(code, Code::PermissionDenied);
        held.push(channel);
    }
    assert_ne!(call(&running, &agent).await.1, Code::PermissionDenied);
    assert!(running.refused("limit") > 0);
    drop(held);
    // A place is free once the server has seen that connections are closed.
    while call(&running, &agent).await.1 != Code::PermissionDenied {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever is not known has few connections, and not for long.
#[tokio::test]
async fn connections_of_strangers_are_limited_and_end() {
    let running = Running::with(Lifetimes {
        first_call: Duration::from_secs(3),
        ..Lifetimes::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..STRANGERS.of_one {
        let (channel, code) = call(&running, "nonsense").await;
        assert_eq!(code, Code::Unauthenticated);
        held.push(channel);
    }
    let agent = running.cluster.agent("one");
    assert_ne!(call(&running, &agent).await.1, Code::PermissionDenied);
    while call(&running, &agent).await.1 != Code::PermissionDenied {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(held);
}

/// A connection that nobody uses ends; so does one that is used, at its age, and its streams go on over another.
#[tokio::test]
async fn connections_end_idle_and_at_their_age() {
    let running = Running::with(Lifetimes {
        age: Duration::from_millis(500),
        ..Lifetimes::default()
    })
    .await;
    let agent = running.cluster.agent("one");
    let channel = running.channel();
    let mut client = AggregatedDiscoveryServiceClient::with_interceptor(channel, running.file(&agent));
    for _ in 0..3 {
        let request = DeltaDiscoveryRequest {
            type_url: TYPE_POD_CAPTURE.to_owned(),
            ..Default::default()
        };
        let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
        let mut responses = client
            .delta_aggregated_resources(requests)
            .await
            .unwrap()
            .into_inner();
        assert!(responses.message().await.unwrap().is_some());
        let status = end(responses).await;
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("reached its maximum age"), "{status}");
    }

    let running = Running::with(Lifetimes {
        idle: Duration::from_millis(300),
        ..Lifetimes::default()
    })
    .await;
    let agent = running.cluster.agent("one");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS.of_one + 10 {
        // The places of those before come free without anybody closing anything.
        loop {
            let (channel, code) = call(&running, &agent).await;
            if code == Code::PermissionDenied {
                held.push(channel);
                break;
            }
        }
    }
}
