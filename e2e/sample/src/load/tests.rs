use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::web;

/// A load of `plan` on a server that lives as long as the runtime.
fn start(target: SocketAddr, plan: Plan) -> (Arc<Load>, watch::Sender<Plan>) {
    let load = Arc::new(Load {
        target: target.to_string(),
        limit: Duration::from_secs(10),
        stats: Shared::default(),
    });
    let (sender, plan) = watch::channel(plan);
    tokio::spawn(workers(Arc::clone(&load), plan));
    (load, sender)
}

async fn until(load: &Load, enough: impl Fn(&LoadStats) -> bool) -> LoadStats {
    let wait = async {
        loop {
            let stats = load.stats.with(|stats| stats.clone());
            if enough(&stats) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap()
}

#[tokio::test]
async fn connections_are_reused_and_follow_the_plan() {
    let [server, _] = web::tests::start().await;
    let (load, plan) = start(server, Plan::get(3, "/"));
    let stats = until(&load, |stats| stats.ok >= 30).await;
    assert_eq!((stats.connections, stats.failed, stats.resets), (3, 0, 0));
    assert_eq!(stats.statuses.keys().collect::<Vec<_>>(), [&200]);
    plan.send_replace(Plan::get(5, "/"));
    until(&load, |stats| stats.connections == 5).await;
    plan.send_replace(Plan::get(0, "/"));
    until(&load, |stats| stats.in_flight == 0).await;
    plan.send_replace(Plan::get(1, "/flaky"));
    let stats = until(&load, |stats| stats.failed >= 2).await;
    assert!(stats.statuses[&503] >= 2, "{stats:?}");
    assert!(
        stats.failures[0].error.starts_with("503") && stats.failures[0].flow == "GET /flaky",
        "{stats:?}"
    );
}

/// Ends every second connection after the request, before its response.
async fn cuts(listener: TcpListener) {
    let count = AtomicU64::new(0);
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            continue;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn idempotent_requests_are_retried_once() {
    for (method, retried) in [("GET", true), ("POST", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(cuts(listener));
        let plan = Plan {
            method: method.into(),
            ..Plan::get(1, "/")
        };
        let (load, _plan) = start(server, plan);
        let stats = until(&load, |stats| stats.ok >= 5).await;
        assert!(stats.resets >= 5, "{stats:?}");
        assert_eq!(stats.retried > 0, retried, "{method}: {stats:?}");
        assert_eq!(stats.failed > 0, !retried, "{method}: {stats:?}");
    }
}

#[test]
fn plans_are_read() {
    let plan = stats::plan("5/20/DELETE/slow?ms=200/x").unwrap();
    let wanted = Plan {
        method: "DELETE".into(),
        ..Plan::get(5, "/slow?ms=200/x").every(20)
    };
    assert_eq!(plan, wanted);
    assert_eq!(stats::plan("0/0/GET/").unwrap(), Plan::get(0, "/"));
    for wrong in ["", "x/0/GET/", "1/0/GET"] {
        assert!(stats::plan(wrong).is_err(), "{wrong}");
    }
}
