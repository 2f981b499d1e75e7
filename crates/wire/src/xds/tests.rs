//! The client half against the server half.

mod digests;
mod harness;
mod order;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use self::harness::{A, B, ControlPlane, Fake, TestClient, map, resources};
use super::{ConnectionState, Subscription};

fn both() -> Vec<Subscription> {
    vec![Subscription::wildcard(A), Subscription::wildcard(B)]
}

#[tokio::test]
async fn changes_and_removals_arrive_for_each_type_apart() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1"), ("y", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(server.address, both());
    assert_eq!(
        client.next().await,
        (A.into(), map(&[("x", "1"), ("y", "1")]), vec![])
    );

    // B was not ready: nothing was said of it, A goes on.
    fake.a
        .update([("y".into(), None), ("z".into(), Some(b"1".to_vec()))]);
    assert_eq!(
        client.next().await,
        (A.into(), map(&[("z", "1")]), vec!["y".into()])
    );
    fake.b.replace([]);
    let empty = client.batch().await;
    assert_eq!(
        (empty.type_url.as_str(), empty.added.len(), empty.complete),
        (B, 0, true)
    );
    fake.b.replace(resources(&[("b", "1")]));
    assert_eq!(client.next().await, (B.into(), map(&[("b", "1")]), vec![]));
    assert!(client.state.borrow().is_connected());
    server.stop().await;
}

/// As soon as it is so.
async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("it came about in time");
}

#[tokio::test]
async fn it_is_told_how_long_changes_took_to_be_acknowledged() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1"), ("y", "1")]));
    fake.b.replace([]);
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(server.address, both());
    client.next().await;
    client.next().await;
    let acknowledged = || fake.acknowledged.lock().unwrap().len();
    // What was there when the client came is no change that it took time for.
    fake.a.update([("z".into(), Some(b"1".to_vec()))]);
    client.next().await;
    eventually(|| acknowledged() == 1).await;
    fake.a.update([("z".into(), Some(b"bad".to_vec()))]);
    client.next().await;
    eventually(|| fake.rejections.lock().unwrap().len() == 1).await;
    assert_eq!(acknowledged(), 1, "it was rejected");
    // Removals are changes as well.
    fake.a.update([("y".into(), None)]);
    client.next().await;
    eventually(|| acknowledged() == 2).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_and_ends_of_streams_are_counted_by_the_client() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(server.address, both());
    let of = |client: &TestClient, what: &str, url: &str| {
        client.counted(&format!("istio_xds_message{what}_total{{url=\"{url}\"}}"))
    };
    let ended = |client: &TestClient, reason: &str| {
        client.counted(&format!(
            "istio_xds_connection_terminations_total{{reason=\"{reason}\"}}"
        ))
    };
    client.next().await;
    fake.a.update([("y".into(), Some(vec![7; 5000]))]);
    client.next().await;
    assert_eq!((of(&client, "", A), of(&client, "", B)), (2, 0));
    assert!((5000..6000).contains(&of(&client, "_bytes", A)));
    assert_eq!(of(&client, "_bytes", B), 0);
    assert_eq!(ended(&client, "Reconnect"), 0);
    // As it shuts down, the control plane asks its clients to go elsewhere.
    server.stop().await;
    client.wait_connected(false).await;
    eventually(|| ended(&client, "ConnectionError") > 0).await;
    assert_eq!(
        ["Reconnect", "Error", "Complete"].map(|reason| ended(&client, reason)),
        [1, 0, 0]
    );
}

#[tokio::test]
async fn a_reconnect_brings_the_differences_and_nothing_twice() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[
        ("same", "1"),
        ("changed", "1"),
        ("gone", "1"),
        ("flapped", "1"),
    ]));
    let server = ControlPlane::start(&fake, None).await;
    let address = server.address;
    let mut client = TestClient::start(address, vec![Subscription::wildcard(A)]);
    assert_eq!(client.next().await.1.len(), 4);
    server.stop().await;
    client.wait_connected(false).await;
    assert!(matches!(
        &*client.state.borrow(),
        ConnectionState::Disconnected { error: Some(_), .. }
    ));

    fake.a.update([
        ("flapped".into(), None),
        ("gone".into(), None),
        ("changed".into(), Some(b"2".to_vec())),
    ]);
    fake.a.update([("flapped".into(), Some(b"1".to_vec()))]);
    std::fs::write(client.token.path(), "second\n").unwrap();
    let server = ControlPlane::start(&fake, Some(address)).await;
    assert_eq!(
        client.next().await,
        (A.into(), map(&[("changed", "2")]), vec!["gone".into()])
    );
    client.wait_connected(true).await;
    server.stop().await;
    client.wait_connected(false).await;

    let server = ControlPlane::start(&fake, Some(address)).await;
    assert_eq!(client.next().await, (A.into(), map(&[]), vec![]));
    assert_eq!(*fake.sent.lock().unwrap(), 6);
    let tokens = fake.tokens.lock().unwrap().clone();
    assert_eq!(tokens.first().unwrap(), "Bearer first");
    assert_eq!(tokens.last().unwrap(), "Bearer second");
    server.stop().await;
}

/// Another replica, just started, must not tell clients that everything is gone.
#[tokio::test]
async fn a_server_that_knows_nothing_yet_takes_nothing_away() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1"), ("y", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let address = server.address;
    let mut client = TestClient::start(address, both());
    client.batch().await;
    server.stop().await;

    let fresh = Arc::new(Fake::default());
    fresh.b.replace([]);
    let server = ControlPlane::start(&fresh, Some(address)).await;
    assert_eq!(client.next().await.0, B);
    fresh.a.update([("x".into(), Some(b"1".to_vec()))]);
    fresh.a.replace(resources(&[("x", "1")]));
    assert_eq!(client.next().await, (A.into(), map(&[]), vec!["y".into()]));
    server.stop().await;
}

#[tokio::test]
async fn a_rejected_resource_comes_again_only_when_it_changes() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(server.address, vec![Subscription::wildcard(A)]);
    client.batch().await;

    fake.a.update([
        ("x".into(), Some(b"bad".to_vec())),
        ("y".into(), Some(b"1".to_vec())),
    ]);
    assert_eq!(client.next().await.1, map(&[("x", "bad"), ("y", "1")]));
    fake.a.update([("y".into(), Some(b"2".to_vec()))]);
    assert_eq!(client.next().await.1, map(&[("y", "2")]));
    assert_eq!(*fake.rejections.lock().unwrap(), [A]);
    fake.a.update([("x".into(), Some(b"3".to_vec()))]);
    assert_eq!(client.next().await.1, map(&[("x", "3")]));
    server.stop().await;
}

/// Something stands in for what was rejected at first sight (a closed policy, for one), so its end must be told as
/// well.
#[tokio::test]
async fn what_was_rejected_and_is_gone_at_a_reconnect_is_told_as_gone() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("stays", "bad"), ("goes", "bad")]));
    let server = ControlPlane::start(&fake, None).await;
    let address = server.address;
    let mut client = TestClient::start(address, vec![Subscription::wildcard(A)]);
    client.batch().await;
    server.stop().await;
    client.wait_connected(false).await;

    fake.a.update([("goes".into(), None)]);
    let server = ControlPlane::start(&fake, Some(address)).await;
    assert_eq!(
        client.next().await,
        (A.into(), map(&[("stays", "bad")]), vec!["goes".into()])
    );
    server.stop().await;
}

#[tokio::test]
async fn many_resources_come_in_parts_of_which_only_the_last_is_complete() {
    let fake = Arc::new(Fake::default());
    fake.a.replace((0..12_000).map(|i| (format!("r{i}"), vec![b'x'])));
    fake.b
        .replace((0..5).map(|i| (format!("r{i}"), vec![0; 1 << 20])));
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(server.address, both());
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut names = HashSet::new();
    while a.last() != Some(&true) || b.last() != Some(&true) {
        let batch = client.batch().await;
        assert!(batch.added.len() <= 5_000);
        names.extend(
            batch
                .added
                .iter()
                .map(|r| (batch.type_url.clone(), r.name.clone())),
        );
        if batch.type_url == A { &mut a } else { &mut b }.push(batch.complete);
    }
    assert_eq!((a, b), (vec![false, false, true], vec![false, false, true]));
    assert_eq!(names.len(), 12_005);
    server.stop().await;
}

/// What a resource of one type refers to in another goes after the reference to it.
#[tokio::test]
async fn removals_of_what_is_referred_to_come_last() {
    let fake = Arc::new(Fake::default());
    fake.a
        .replace((0..12_000).map(|i| (format!("r{i}"), b"refers".to_vec())));
    fake.b.replace(resources(&[("referred", "1"), ("other", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let address = server.address;
    let subscriptions = vec![Subscription::wildcard(B), Subscription::wildcard(A)];
    let mut client = TestClient::start(address, subscriptions);
    let mut complete = HashSet::new();
    while complete.len() < 2 {
        let batch = client.batch().await;
        complete.extend(batch.complete.then_some(batch.type_url));
    }

    let change = |content: &'static [u8], removed: &str, changed: &str| {
        fake.b.update([(changed.to_owned(), Some(content.to_vec()))]);
        fake.a
            .update((0..12_000).map(|i| (format!("r{i}"), Some(content.to_vec()))));
        fake.b.update([(removed.to_owned(), None)]);
    };
    change(b"2", "referred", "other");
    assert_eq!(client.next().await, (B.into(), map(&[("other", "2")]), vec![]));
    for _ in 0..3 {
        assert_eq!(client.next().await.0, A);
    }
    assert_eq!(client.next().await, (B.into(), map(&[]), vec!["referred".into()]));

    // The same when it happened while there was no stream.
    server.stop().await;
    client.wait_connected(false).await;
    change(b"3", "other", "new");
    let server = ControlPlane::start(&fake, Some(address)).await;
    assert_eq!(client.next().await, (B.into(), map(&[("new", "3")]), vec![]));
    // The comparison of digests, and three parts.
    for _ in 0..4 {
        assert_eq!(client.next().await.0, A);
    }
    assert_eq!(client.next().await, (B.into(), map(&[]), vec!["other".into()]));
    server.stop().await;
}

#[tokio::test]
async fn names_get_what_they_name_and_no_more() {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("x", "1"), ("y", "1")]));
    let server = ControlPlane::start(&fake, None).await;
    let named = Subscription {
        type_url: A.into(),
        names: Some(vec!["x".into(), "later".into()]),
    };
    let mut client = TestClient::start(server.address, vec![named]);
    assert_eq!(
        client.next().await,
        (A.into(), map(&[("x", "1")]), vec!["later".into()])
    );
    fake.a.update([
        ("y".into(), Some(b"2".to_vec())),
        ("later".into(), Some(b"1".to_vec())),
    ]);
    assert_eq!(client.next().await, (A.into(), map(&[("later", "1")]), vec![]));
    fake.a.update([("y".into(), None), ("x".into(), None)]);
    assert_eq!(client.next().await, (A.into(), map(&[]), vec!["x".into()]));
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_says_why() {
    let fake = Arc::new(Fake::default());
    let server = ControlPlane::start(&fake, None).await;
    let mut client = TestClient::start(
        server.address,
        vec![Subscription::wildcard("type.googleapis.com/test.C")],
    );
    let refused = |state: &ConnectionState| {
        let ConnectionState::Disconnected {
            error: Some(error), ..
        } = state
        else {
            return false;
        };
        error.contains("test client may not have type.googleapis.com/test.C")
    };
    client.state.wait_for(refused).await.unwrap();
    server.stop().await;
}
