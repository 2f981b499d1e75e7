//! A waypoint with two workers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_runtime::Shares;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::support::*;
use crate::admission::Admission;
use crate::http::HttpTimeouts;

async fn mesh() -> Mesh {
    Mesh::sharded(HttpTimeouts::default(), Admission::of_process()).await
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://server{path}"))
        .header("host", "server")
        .body(full(""))
        .unwrap()
}

/// HTTP/1 clients, the HBONE connection of each on a worker of its own.
async fn one_on_each(mesh: &Mesh) -> [Http1Client; 2] {
    let vip = format!("{VIP}:81").parse().unwrap();
    let one = mesh.open_as("one", "127.0.0.2", vip).await.unwrap();
    let one = Http1Client::over(one).await;
    let other = mesh.open_as("other", "127.0.0.3", vip).await.unwrap();
    let clients = [one, Http1Client::over(other).await];
    for proxy in mesh.proxies.iter() {
        assert_eq!(proxy.connections.len(), 1);
    }
    clients
}

/// The log of the workers, with the names of threads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of the access log is written where the request's task ends.
#[tokio::test]
async fn requests_of_a_connection_are_served_by_one_thread() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_thread_names(true)
        .with_writer(move || writer.clone())
        .finish();
    let dispatch = tracing::Dispatch::new(subscriber);
    let mesh = mesh().await;
    let logging = mesh.workers.as_ref().unwrap().shards().each(|| {
        let dispatch = dispatch.clone();
        // For as long as the thread lives.
        tokio::spawn(async move { std::mem::forget(tracing::dispatcher::set_default(&dispatch)) })
    });
    while !logging.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::task::yield_now().await;
    }
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    // HTTP/2 to the endpoint, and a task for each request.
    let vip = format!("{VIP}:8080").parse().unwrap();
    let mut clients = Vec::new();
    for (name, from) in [("one", "127.0.0.2"), ("other", "127.0.0.3")] {
        let client = Http2Client::over(mesh.open_as(name, from, vip).await.unwrap()).await;
        clients.push((name, client));
    }
    let requests = clients.iter().flat_map(|(name, client)| {
        (0..20).map(move |_| {
            let mut client = client.clone();
            let request = get(&format!("/of-{name}"));
            async move { whole(client.send(request).await).await.0 }
        })
    });
    for status in futures::future::join_all(requests).await {
        assert_eq!(status, StatusCode::OK);
    }
    let lines = |thread: &str, client: &str| {
        let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
        let path = format!("\"/of-{client}\"");
        let lines = text
            .lines()
            .filter(|line| line.contains(thread) && line.contains(&path));
        lines.count()
    };
    let written = async {
        while lines("", "one") + lines("", "other") < 40 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, written).await.unwrap();
    assert_eq!([lines("shard-0", "one"), lines("shard-1", "other")], [20, 20]);
}

/// Two clients on two workers have no more than one pool of places.
#[tokio::test]
async fn limits_hold_for_all_workers_together() {
    let admission = Admission {
        requests: Shares::new(3),
        ..Admission::of_process()
    };
    let mesh = Mesh::sharded(HttpTimeouts::default(), admission).await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    let vip = format!("{VIP}:8080").parse().unwrap();
    let mut one = Http2Client::over(mesh.open_as("one", "127.0.0.2", vip).await.unwrap()).await;
    let other = Http2Client::over(mesh.open_as("other", "127.0.0.3", vip).await.unwrap()).await;
    let _waiting = [&one, &other].map(|client| {
        let mut client = client.clone();
        tokio::spawn(async move { client.try_send(get("/wait")).await })
    });
    while application.seen() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        mesh.proxies
            .iter()
            .map(|proxy| proxy.requests.len())
            .collect::<Vec<_>>(),
        [1, 1]
    );
    // Of three places this client has one, and the other client another: half of what is left is none.
    let (status, reason, _) = whole(one.send(get("/")).await).await;
    assert_eq!(
        (status, &*reason),
        (StatusCode::SERVICE_UNAVAILABLE, "overloaded")
    );
}

#[tokio::test]
async fn the_retry_budget_of_a_service_is_that_of_all_workers() {
    let mesh = mesh().await;
    let key = "shop/server".into();
    let budgets: Vec<_> = mesh.proxies.iter().map(|proxy| proxy.retries.of(&key)).collect();
    let retries: Vec<_> = budgets
        .iter()
        .flat_map(|budget| [budget.retry(), budget.retry()])
        .collect();
    assert_eq!(retries.iter().flatten().count(), 3);
}

/// Connections to endpoints are of a worker: clients of one share them, clients of two do not.
#[tokio::test]
async fn connections_to_endpoints_are_shared_within_a_worker() {
    let mesh = mesh().await;
    let application = Application::start_at(own_address(), async |_| Response::new(full("ok"))).await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let [mut one, mut other] = one_on_each(&mesh).await;
    for _ in 0..3 {
        assert_eq!(one.get("/").await.2, "ok");
    }
    assert_eq!(application.connections.load(Ordering::SeqCst), 1);
    assert_eq!(mesh.proxies.hbone_connections(), 1);
    for _ in 0..3 {
        assert_eq!(other.get("/").await.2, "ok");
    }
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
    assert_eq!(mesh.proxies.hbone_connections(), 2, "of both workers");
}

#[tokio::test]
async fn an_evicted_workload_is_let_go_on_every_worker() {
    let mesh = mesh().await;
    let application = Application::start_at(own_address(), async |_| Response::new(full("ok"))).await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    for mut client in one_on_each(&mesh).await {
        assert_eq!(client.get("/").await.2, "ok");
    }
    assert_eq!(mesh.proxies.hbone_connections(), 2);
    mesh.remove("server-1");
    assert_eq!(mesh.proxies.hbone_connections(), 0);
}

/// A request is under way on each worker: the drain ends with the last one.
#[tokio::test]
async fn the_drain_waits_for_every_worker() {
    static GO: Semaphore = Semaphore::const_new(0);
    let mesh = mesh().await;
    let application = Application::start(async |_| {
        GO.acquire().await.unwrap().forget();
        Response::new(full("done"))
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let requests = one_on_each(&mesh).await.map(|mut client| {
        tokio::spawn(async move {
            let response = client.send(get("/")).await;
            let close = response.headers().get("connection").cloned();
            (close.unwrap(), whole(response).await.2)
        })
    });
    while application.seen() < 2 {
        tokio::task::yield_now().await;
    }
    mesh.drain.cancel();
    while !mesh.proxies.iter().all(|proxy| proxy.is_draining()) {
        tokio::task::yield_now().await;
    }
    let proxies = Arc::clone(&mesh.proxies);
    let drained = tokio::spawn(async move { proxies.drained(WAIT).await });
    GO.add_permits(1);
    while mesh.observer.load().in_flight() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(!drained.is_finished(), "one is left");
    GO.add_permits(1);
    for request in requests {
        let (close, body) = request.await.unwrap();
        assert_eq!((close.to_str().unwrap(), &*body), ("close", "done"));
    }
    assert_eq!(drained.await.unwrap(), 0);
}

#[tokio::test]
async fn the_drain_deadline_ends_what_is_left_on_every_worker() {
    let mesh = mesh().await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    let requests = one_on_each(&mesh)
        .await
        .map(|mut client| tokio::spawn(async move { client.try_send(get("/")).await.is_err() }));
    while application.seen() < 2 {
        tokio::task::yield_now().await;
    }
    mesh.drain.cancel();
    assert_eq!(mesh.proxies.drained(Duration::from_millis(50)).await, 2);
    for request in requests {
        assert!(request.await.unwrap());
    }
    mesh.counts(&["istio_requests_total", "response_flags=\"LR\""], 1)
        .await;
}

/// The load that is to go to other replicas is that of the whole waypoint.
#[tokio::test]
async fn connections_of_every_worker_are_moved() {
    let timeouts = HttpTimeouts {
        settled: Duration::ZERO,
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::sharded(timeouts, Admission::of_process()).await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut clients = one_on_each(&mesh).await;
    for client in &mut clients {
        assert_eq!(client.get("/").await.0, StatusCode::OK);
    }
    mesh.observer.load().excess().set(60_000);
    for client in &mut clients {
        let response = client.send(get("/")).await;
        assert_eq!(response.headers()["connection"], "close");
        whole(response).await;
        client.closed().await;
    }
    mesh.counts(&["ambit_waypoint_connections_moved_total"], 2).await;
}
