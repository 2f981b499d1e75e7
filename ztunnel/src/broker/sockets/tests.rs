use std::net::{Ipv4Addr, TcpListener};

use ambit_wire::broker::FromZtunnel;
use futures::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(60);

fn sockets(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap().into())
        .collect()
}

fn asked(requests: &mut UnboundedReceiver<FromZtunnel>) -> usize {
    let mut sum = 0;
    while let Ok(message) = requests.try_recv() {
        let Some(Message::NeedSockets(need)) = message.message else {
            panic!("{message:?}")
        };
        assert_eq!(need.uid, "pod");
        assert!((1..=64).contains(&need.count));
        sum += need.count as usize;
    }
    sum
}

fn pool(low: usize, high: usize) -> (SocketPool, UnboundedReceiver<FromZtunnel>) {
    let outbox = Outbox::default();
    let requests = outbox.open_for_test();
    (SocketPool::new("pod".into(), outbox, low, high), requests)
}

#[tokio::test]
async fn the_store_is_filled_before_it_is_needed_and_refilled_in_batches() {
    let (pool, mut requests) = pool(8, 64);
    assert_eq!(asked(&mut requests), 8);
    pool.deliver(4, sockets(8), "");
    for _ in 0..3 {
        pool.take(V4, LONG).await.unwrap();
    }
    assert_eq!(asked(&mut requests), 0);
    pool.take(V4, LONG).await.unwrap();
    assert_eq!(asked(&mut requests), 4);
}

#[tokio::test]
async fn a_burst_waits_in_order_and_makes_the_store_larger() {
    let (pool, mut requests) = pool(1, 100);
    pool.deliver(4, sockets(1), "");
    asked(&mut requests);
    let mut taken: Vec<_> = (0..300).map(|_| Box::pin(pool.take(V4, LONG))).collect();
    let ready = taken
        .iter_mut()
        .map(|take| take.as_mut().now_or_never())
        .filter(Option::is_some)
        .count();
    assert_eq!(ready, 1);
    // 299 wait, and 100 are to be kept besides.
    let first = asked(&mut requests);
    assert!(first >= 299, "{first}");
    pool.deliver(4, sockets(64), "");
    let ready = taken[1..]
        .iter_mut()
        .map(|take| take.as_mut().now_or_never())
        .filter(Option::is_some)
        .count();
    assert_eq!(ready, 64);
}

#[tokio::test]
async fn a_new_agent_is_asked_for_what_the_old_one_owed() {
    let outbox = Outbox::default();
    let pool = SocketPool::new("pod".into(), outbox.clone(), 2, 16);
    let mut take = Box::pin(pool.take(V4, LONG));
    assert!(take.as_mut().now_or_never().is_none());
    let mut requests = outbox.open_for_test();
    pool.reconnected();
    assert!(asked(&mut requests) >= 3);
    pool.deliver(4, sockets(3), "");
    take.await.unwrap();
}

#[tokio::test]
async fn the_agents_failure_reaches_those_who_wait_and_the_next_asks_again() {
    let (pool, mut requests) = pool(0, 16);
    let mut take = Box::pin(pool.take(V4, LONG));
    assert!(take.as_mut().now_or_never().is_none());
    assert!(asked(&mut requests) > 0);
    pool.deliver(4, Vec::new(), "the namespace is gone");
    assert!(
        take.await
            .unwrap_err()
            .to_string()
            .contains("the namespace is gone")
    );
    assert_eq!(asked(&mut requests), 0);
    assert!(pool.take(V4, LONG).now_or_never().is_none());
    assert!(asked(&mut requests) > 0);
}

#[tokio::test]
async fn waiting_has_an_end() {
    let (pool, _requests) = pool(1, 1);
    let short = Duration::from_millis(10);
    assert!(matches!(pool.take(V4, short).await, Err(SocketError::Timeout(_))));
    pool.close();
    assert!(matches!(pool.take(V4, LONG).await, Err(SocketError::Closed)));
}

#[tokio::test]
async fn what_lies_idle_is_given_back_step_by_step() {
    let (pool, mut requests) = pool(4, 64);
    let mut burst: Vec<_> = (0..16).map(|_| Box::pin(pool.take(V4, LONG))).collect();
    for take in &mut burst {
        assert!(take.as_mut().now_or_never().is_none());
    }
    let coming = asked(&mut requests);
    pool.deliver(4, sockets(coming), "");
    drop(burst);
    let idle = || pool.v4.lock().idle.len();
    let before = idle();
    assert!(before >= 32, "{before}");
    // The burst is in the first period.
    for _ in 0..8 {
        pool.shrink();
    }
    assert_eq!(idle(), 4);
    assert_eq!(asked(&mut requests), 0);
}
