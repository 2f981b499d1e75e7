use serde_json::json;

use super::*;
use crate::reconcile::testing::Server;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/ambit-system/leases/ambit-operator";

fn replica(server: &Server, identity: &str) -> (Lease, Leadership) {
    Lease::new(server.client(), "ambit-system", "ambit-operator", identity)
}

fn holder(server: &Server) -> String {
    server.get(PATH).unwrap()["spec"]["holderIdentity"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn expired_lease_passes_to_another_replica() {
    let server = Server::default();
    let (mut a, _) = replica(&server, "a");
    let (mut b, _) = replica(&server, "b");
    assert!(a.turn(true).await.unwrap());
    assert!(!b.turn(true).await.unwrap());
    tokio::time::advance(DURATION / 2).await;
    assert!(a.turn(true).await.unwrap(), "renewed");
    assert!(!b.turn(true).await.unwrap());
    tokio::time::advance(DURATION - Duration::from_secs(1)).await;
    assert!(!b.turn(true).await.unwrap(), "renewed since b last looked");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(b.turn(true).await.unwrap());
    assert_eq!(holder(&server), "b");
    assert_eq!(server.get(PATH).unwrap()["spec"]["leaseTransitions"], json!(1));
    assert!(!a.turn(true).await.unwrap(), "back too late");
}

#[tokio::test(start_paused = true)]
async fn stopping_replica_releases_the_lease() {
    let server = Server::default();
    let (a, mut leads) = replica(&server, "a");
    let stop = CancellationToken::new();
    let running = tokio::spawn(a.run(async {}, || true, stop.clone()));
    leads.wait_for(|leads| *leads).await.unwrap();
    stop.cancel();
    running.await.unwrap();
    assert_eq!(holder(&server), "");
    let (mut b, _) = replica(&server, "b");
    assert!(
        b.turn(true).await.unwrap(),
        "at once, without waiting for it to run out"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_renewal_ends_leadership_in_time() {
    let server = Server::default();
    let (a, mut leads) = replica(&server, "a");
    let stop = CancellationToken::new();
    let running = tokio::spawn(a.run(async {}, || true, stop.clone()));
    leads.wait_for(|leads| *leads).await.unwrap();
    // Somebody else's, from now on and without end.
    let mut lease = server.get(PATH).unwrap();
    lease["spec"]["holderIdentity"] = json!("b");
    server.put(PATH, lease);
    let before = Instant::now();
    leads.wait_for(|leads| !*leads).await.unwrap();
    assert!(before.elapsed() < DURATION);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(holder(&server), "b", "what is another's is left alone");
}

#[tokio::test(start_paused = true)]
async fn missing_response_ends_leadership_in_time() {
    let server = Server::default();
    let (a, mut leads) = replica(&server, "a");
    let (mut b, _) = replica(&server, "b");
    let stop = CancellationToken::new();
    let running = tokio::spawn(a.run(async {}, || true, stop.clone()));
    leads.wait_for(|leads| *leads).await.unwrap();
    let renewed = Instant::now();
    assert!(!b.turn(true).await.unwrap());
    // Just before it is due to be renewed: the request hangs.
    tokio::time::sleep(PERIOD - Duration::from_millis(1)).await;
    assert!(*leads.borrow_and_update());
    server.silence(true);
    leads.wait_for(|leads| !*leads).await.unwrap();
    assert!(renewed.elapsed() <= RENEW_DEADLINE, "{:?}", renewed.elapsed());
    server.silence(false);
    leads.wait_for(|leads| *leads).await.unwrap();
    assert_eq!(holder(&server), "a", "it has run out for nobody, and is renewed");
    server.silence(true);
    stop.cancel();
    // It does not wait for a response for ever.
    running.await.unwrap();
    assert_eq!(holder(&server), "a");
}

#[tokio::test(start_paused = true)]
async fn unready_replica_does_not_take_the_lease() {
    let server = Server::default();
    let (a, mut leads) = replica(&server, "a");
    let stop = CancellationToken::new();
    let (ready, read) = tokio::sync::oneshot::channel::<()>();
    let until_read = async {
        let _ = read.await;
    };
    let running = tokio::spawn(a.run(until_read, || true, stop.clone()));
    tokio::time::sleep(DURATION * 2).await;
    assert!(!*leads.borrow());
    assert_eq!(server.get(PATH), None, "it has not tried");
    let (mut b, _) = replica(&server, "b");
    assert!(b.turn(true).await.unwrap());
    // Ready now, and b is gone without a word.
    ready.send(()).unwrap();
    leads.wait_for(|leads| *leads).await.unwrap();
    assert_eq!(holder(&server), "a");
    stop.cancel();
    running.await.unwrap();

    let (never, _) = replica(&server, "c");
    never.run(std::future::pending(), || true, stop).await;
}

/// One that may not take the lease keeps what it has, and takes it once it may.
#[tokio::test(start_paused = true)]
async fn replica_that_may_not_lead_takes_no_lease() {
    let server = Server::default();
    let (mut a, _) = replica(&server, "a");
    let (mut b, _) = replica(&server, "b");
    assert!(!a.turn(false).await.unwrap(), "there is none");
    assert!(b.turn(true).await.unwrap());
    assert!(b.turn(false).await.unwrap(), "it goes on");
    tokio::time::advance(DURATION * 2).await;
    assert!(!a.turn(false).await.unwrap(), "nobody renews it");
    assert!(!a.turn(true).await.unwrap(), "it has just been renewed");
    tokio::time::advance(DURATION * 2).await;
    assert!(a.turn(true).await.unwrap());
}
