//! Load: every replica takes it from waypoints, and passes it on to the operator.

use ambit_wire::discovery::DeltaDiscoveryRequest;
use ambit_wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_wire::loads::loads_client::LoadsClient;
use ambit_wire::loads::{Changes, Excess, SpreadRequest, WatchRequest};
use ambit_wire::waypoint::waypoint_client::WaypointClient;
use ambit_wire::waypoint::{Load, LoadAck};
use tokio::sync::mpsc::UnboundedSender;
use tonic::Streaming;

use super::*;

/// Reports of a waypoint's replica, and what comes back.
async fn reports(
    running: &Running,
    token: &str,
) -> Result<(UnboundedSender<Load>, Streaming<LoadAck>), Status> {
    let mut client = WaypointClient::with_interceptor(running.channel(), running.file(token));
    let (reports, outgoing) = mpsc::unbounded_channel();
    let acks = client.report(UnboundedReceiverStream::new(outgoing)).await?;
    Ok((reports, acks.into_inner()))
}

async fn watch(running: &Running, token: &str) -> Result<Streaming<Changes>, Status> {
    let mut client = LoadsClient::with_interceptor(running.channel(), running.file(token));
    Ok(client.watch(WatchRequest {}).await?.into_inner())
}

async fn spread(running: &Running, token: &str, uid: &str, in_flight_milli: u64) -> Result<(), Status> {
    let mut client = LoadsClient::with_interceptor(running.channel(), running.file(token));
    let uid = uid.to_owned();
    let replicas = vec![Excess { uid, in_flight_milli }];
    client.spread(SpreadRequest { replicas }).await.map(drop)
}

/// The next of what is watched: replicas, by waypoint, with their requests in flight.
async fn next(watch: &mut Streaming<Changes>) -> Vec<(String, Option<u64>)> {
    let changes = watch.message().await.unwrap().unwrap().replicas;
    let shown = changes.into_iter().map(|replica| {
        let load = replica.report.map(|report| report.in_flight_milli);
        (replica.uid, load)
    });
    shown.collect()
}

fn load(in_flight_milli: u64) -> Load {
    Load {
        in_flight_milli,
        ..Load::default()
    }
}

#[tokio::test]
async fn every_replica_forwards_load_until_the_stream_ends() {
    let cluster = Arc::new(crate::control::testing::Cluster::default());
    let replicas = [
        Running::serving(&cluster, Arc::clone(&cluster) as _).await,
        Running::serving(&cluster, Arc::clone(&cluster) as _).await,
    ];
    let operator = cluster.operator();
    for (running, namespace) in replicas.iter().zip(["shop", "pay"]) {
        let mut early = watch(running, &operator).await.unwrap();
        assert_eq!(next(&mut early).await, []);
        let token = cluster.waypoint(namespace, "waypoint");
        let (sender, mut acks) = reports(running, &token).await.unwrap();
        let uid = format!("{namespace}-waypoint-0-uid");
        for milli in [1500, 2500] {
            sender.send(load(milli)).unwrap();
            acks.message().await.unwrap().unwrap();
            assert_eq!(next(&mut early).await, [(uid.clone(), Some(milli))]);
        }
        let mut late = watch(running, &operator).await.unwrap();
        assert_eq!(next(&mut late).await, [(uid.clone(), Some(2500))]);
        drop((sender, acks));
        assert_eq!(next(&mut early).await, [(uid.clone(), None)]);
        assert_eq!(next(&mut late).await, [(uid, None)]);
    }
}

/// Its account says who the operator is, in its own namespace only; and it has no other business here.
#[tokio::test]
async fn only_the_operator_watches_loads() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let operator = cluster.operator();
    let namesake = cluster.token_of(pod("shop", "namesake", "ambit-operator", "one"));
    let tokens = [
        cluster.ztunnel("one"),
        cluster.agent("one"),
        cluster.waypoint("shop", "waypoint"),
        namesake,
    ];
    for token in &tokens {
        let status = watch(&running, token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        let status = spread(&running, token, "uid", 1).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    assert_eq!(running.refused("not_allowed"), 8);
    for token in [&tokens[0], &operator] {
        let status = reports(&running, token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    let status = certificate(&running, &operator, None, &csr()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let mut client =
        AggregatedDiscoveryServiceClient::with_interceptor(running.channel(), running.file(&operator));
    let request = DeltaDiscoveryRequest {
        type_url: TYPE_ADDRESS.to_owned(),
        ..Default::default()
    };
    let responses = client
        .delta_aggregated_resources(tokio_stream::iter([request]))
        .await;
    let refused = match responses {
        Ok(responses) => responses.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn replica_is_told_what_it_has_beyond_its_share() {
    let running = Running::start().await;
    let (operator, waypoint) = (
        running.cluster.operator(),
        running.cluster.waypoint("shop", "waypoint"),
    );
    let (sender, mut acks) = reports(&running, &waypoint).await.unwrap();
    let mut told = Vec::new();
    for excess in [0, 2500, 0] {
        if excess > 0 {
            spread(&running, &operator, "shop-waypoint-0-uid", excess)
                .await
                .unwrap();
        }
        sender.send(load(5000)).unwrap();
        told.push(acks.message().await.unwrap().unwrap().excess_milli);
    }
    assert_eq!(told, [0, 2500, 0]);
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let running = Running::start().await;
    let mut watch = watch(&running, &running.cluster.operator()).await.unwrap();
    assert_eq!(next(&mut watch).await, []);
    running.begin_shutdown();
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    running.ended().await;
}
