//! A client that holds much compares digests with the server before it lists anything.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::harness::{A, B, ControlPlane, Fake, TestClient};
use super::*;

const MANY: usize = 5_000;

fn many(version: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..MANY).map(move |n| (format!("pod-{n}"), version.as_bytes().to_vec()))
}

/// All batches of `A` until one is complete: names that came, and names that went.
async fn until_complete(client: &mut TestClient) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let batch = client.batch().await;
        assert_eq!(batch.type_url, A);
        added.extend(batch.added.into_iter().map(|r| r.name));
        removed.extend(batch.removed);
        if batch.complete {
            return (added, removed);
        }
    }
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(ToString::to_string).collect()
}

/// A client that has received `many` once, and has lost its server.
async fn held(fake: &Arc<Fake>) -> (TestClient, std::net::SocketAddr) {
    fake.a.replace(many("1"));
    fake.b.replace([]);
    let server = ControlPlane::start(fake, None).await;
    let address = server.address;
    let mut client = TestClient::start(address, vec![Subscription::wildcard(A)]);
    assert_eq!(until_complete(&mut client).await.0.len(), MANY);
    server.stop().await;
    client.wait_connected(false).await;
    *fake.sent.lock().unwrap() = 0;
    fake.listed.store(0, Ordering::Relaxed);
    (client, address)
}

#[tokio::test]
async fn reconnect_with_the_same_content_lists_and_sends_nothing() {
    let fake = Arc::new(Fake::default());
    let (mut client, address) = held(&fake).await;
    let server = ControlPlane::start(&fake, Some(address)).await;
    assert_eq!(until_complete(&mut client).await, (names(&[]), names(&[])));
    assert_eq!(
        (*fake.sent.lock().unwrap(), fake.listed.load(Ordering::Relaxed)),
        (0, 0)
    );
    // The stream goes on as any other.
    fake.a.update([
        ("pod-9".to_owned(), None),
        ("new".to_owned(), Some(b"1".to_vec())),
    ]);
    assert_eq!(
        until_complete(&mut client).await,
        (names(&["new"]), names(&["pod-9"]))
    );
    server.stop().await;
}

#[tokio::test]
async fn reconnect_sends_what_differs_and_lists_little() {
    let fake = Arc::new(Fake::default());
    let (mut client, address) = held(&fake).await;
    fake.a.update([
        ("pod-7".to_owned(), Some(b"2".to_vec())),
        ("pod-8".to_owned(), None),
        ("new".to_owned(), Some(b"1".to_vec())),
    ]);
    // Another replica, which has seen other changes than this one.
    let other = Arc::new(Fake::default());
    other.b.replace([]);
    let now = many("1").map(|(name, bytes)| match name.as_str() {
        "pod-7" => (name, b"2".to_vec()),
        _ => (name, bytes),
    });
    let new = [("new".to_owned(), b"1".to_vec())];
    other
        .a
        .replace(now.filter(|(name, _)| name != "pod-8").chain(new));
    let server = ControlPlane::start(&other, Some(address)).await;
    let expected = (names(&["new", "pod-7"]), names(&["pod-8"]));
    assert_eq!(until_complete(&mut client).await, expected);
    assert_eq!(*other.sent.lock().unwrap(), 3);
    let listed = other.listed.load(Ordering::Relaxed);
    assert!((1..MANY / 10).contains(&listed), "{listed}");
    server.stop().await;
}

/// What the other type refers to is removed after the client has everything that no longer refers to it.
#[tokio::test]
async fn removals_that_the_listing_finds_wait_as_others_do() {
    let fake = Arc::new(Fake::default());
    fake.a.replace([("refers".to_owned(), b"pod-8".to_vec())]);
    fake.b.replace(many("1"));
    let server = ControlPlane::start(&fake, None).await;
    let address = server.address;
    let mut client = TestClient::start(address, both());
    let mut complete = BTreeSet::new();
    while complete.len() < 2 {
        let batch = client.batch().await;
        if batch.complete {
            complete.insert(batch.type_url);
        }
    }
    server.stop().await;
    client.wait_connected(false).await;
    fake.b.update([("pod-8".to_owned(), None)]);
    fake.a.update([("refers".to_owned(), Some(b"nothing".to_vec()))]);
    let server = ControlPlane::start(&fake, Some(address)).await;
    let mut refers = true;
    loop {
        let batch = client.batch().await;
        refers &= !batch.added.iter().any(|r| r.name == "refers");
        if batch.removed.iter().any(|name| name == "pod-8") {
            assert_eq!((batch.type_url.as_str(), refers), (B, false));
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn server_without_digests_sends_all_and_the_client_drops_the_rest() {
    let fake = Arc::new(Fake::default());
    let (mut client, address) = held(&fake).await;
    fake.a.update([("pod-8".to_owned(), None)]);
    fake.without_digests.store(true, Ordering::Relaxed);
    let server = ControlPlane::start(&fake, Some(address)).await;
    let (added, removed) = until_complete(&mut client).await;
    assert_eq!((added.len(), removed), (MANY - 1, names(&["pod-8"])));
    server.stop().await;
}
