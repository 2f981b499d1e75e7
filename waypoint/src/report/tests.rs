use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Streaming};
use wire::waypoint_server::{Waypoint, WaypointServer};

use super::*;

/// Refuses some calls as a replica that is shutting down, and takes the rest.
struct ControlPlane {
    refusals: AtomicUsize,
    calls: UnboundedSender<SocketAddr>,
    loads: UnboundedSender<wire::Load>,
}

#[tonic::async_trait]
impl Waypoint for ControlPlane {
    type ReportStream = BoxStream<'static, Result<wire::LoadAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<wire::Load>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        if request
            .metadata()
            .get("authorization")
            .is_none_or(|value| value != "Bearer token")
        {
            return Err(Status::unauthenticated("no token"));
        }
        self.calls.send(request.remote_addr().unwrap()).unwrap();
        let refuse = |n: usize| n.checked_sub(1);
        if self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse)
            .is_ok()
        {
            return Err(Status::unavailable("shutting down"));
        }
        let loads = self.loads.clone();
        let acknowledge = move |load: Result<wire::Load, Status>| {
            let _ = loads.send(load?);
            Ok(wire::LoadAck { excess_milli: 1500 })
        };
        Ok(Response::new(request.into_inner().map(acknowledge).boxed()))
    }
}

struct Running {
    calls: UnboundedReceiver<SocketAddr>,
    loads: UnboundedReceiver<wire::Load>,
    load: Arc<Load>,
    draining: CancellationToken,
    shutdown: CancellationToken,
    reporter: tokio::task::JoinHandle<()>,
    _token: NamedTempFile,
}

async fn start(refusals: usize) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ((call_sender, calls), (load_sender, loads)) = (unbounded_channel(), unbounded_channel());
    let control_plane = ControlPlane {
        refusals: AtomicUsize::new(refusals),
        calls: call_sender,
        loads: load_sender,
    };
    tokio::spawn(
        Server::builder()
            .add_service(WaypointServer::new(control_plane))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let token = NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "token\n").unwrap();
    let (load, draining, shutdown) = (
        Arc::new(Load::default()),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let reporter = Reporter {
        dial: Arc::new(move || Endpoint::from_shared(url.clone()).unwrap().connect_lazy()),
        token: TokenFile::new(token.path()),
        load: Arc::clone(&load),
        draining: draining.clone(),
    };
    Running {
        calls,
        loads,
        load,
        draining,
        reporter: tokio::spawn(reporter.run(shutdown.clone())),
        shutdown,
        _token: token,
    }
}

#[tokio::test]
async fn another_replica_is_found_over_new_connections() {
    let mut running = start(2).await;
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push(running.calls.recv().await.unwrap().port());
    }
    let first = running.loads.recv().await.unwrap();
    assert_eq!((first.requests, first.draining), (0, false));
    ports.dedup();
    assert_eq!(ports.len(), 3, "each call came over a connection of its own");
    running.shutdown.cancel();
    running.reporter.await.unwrap();
}

#[tokio::test]
async fn load_is_told_again_and_again_and_draining_at_once() {
    let mut running = start(0).await;
    running.loads.recv().await.unwrap();
    let _requests: Vec<_> = (0..3).map(|_| running.load.request()).collect();
    let _connection = running.load.connection();
    while running.loads.recv().await.unwrap().requests < 3 {}
    let whole = running.loads.recv().await.unwrap();
    assert_eq!(
        whole.in_flight_milli, 3000,
        "all three were in flight all the time"
    );
    let excess = running.load.excess();
    assert!(!excess.take(|| Some(1501)) && excess.take(|| Some(1500)));
    running.draining.cancel();
    while !running.loads.recv().await.unwrap().draining {}
    running.shutdown.cancel();
    running.reporter.await.unwrap();
    assert_eq!(running.calls.recv().await.map(|_| ()), Some(()));
}
