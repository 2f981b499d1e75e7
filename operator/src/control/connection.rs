//! A client's connection: its peer, its calls, and its end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tracing::debug;

use super::peers::Place;
use super::refusal::Addresses;

/// Streams of one connection: a ztunnel makes 20 certificate requests at once.
const STREAMS_OF_ONE: u32 = 64;
/// A dead client is detected within twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Time for calls in progress after streams have been told to end.
const GRACE: Duration = Duration::from_secs(30);
/// Time between the GOAWAY and the end of open streams: clients reopen them over a new connection.
const PAUSE: Duration = Duration::from_secs(1);

/// How long connections last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    /// Time until the first call of an authenticated client.
    pub(super) first_call: Duration,
    /// Time without such a call.
    pub(super) idle: Duration,
    /// Maximum age; that of each connection is up to a quarter longer or shorter, so that they do not end together.
    /// Through it, clients find new replicas.
    pub(super) age: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            first_call: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            age: Duration::from_secs(30 * 60),
        }
    }
}

/// The part of a connection that each call has.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    addresses: Addresses,
    /// The place among connections without a call of an authenticated client.
    stranger: Mutex<Option<Place>>,
    /// Such calls in progress, and whether there has been one.
    calls: watch::Sender<(usize, bool)>,
    /// Cancelled when streams are to end.
    ended: CancellationToken,
}

/// A call of an authenticated client in progress.
#[derive(Debug)]
pub(super) struct Call(Connection);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.calls.send_modify(|(calls, _)| *calls -= 1);
    }
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, local: Option<SocketAddr>, stranger: Place) -> Self {
        Self(Arc::new(State {
            addresses: Addresses::new(Some(peer), local),
            stranger: Mutex::new(Some(stranger)),
            calls: watch::Sender::new((0, false)),
            ended: CancellationToken::new(),
        }))
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.0.addresses
    }

    /// Begins a call of an authenticated client.
    pub(super) fn call(&self) -> Arc<Call> {
        let stranger = &self.0.stranger;
        drop(stranger.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.0.calls.send_modify(|(calls, any)| {
            *calls += 1;
            *any = true;
        });
        Arc::new(Call(self.clone()))
    }

    /// Serves the connection with `routes`, and holds `place` until it ends.
    pub(super) async fn serve(
        self,
        tls: TlsStream<TcpStream>,
        routes: Routes,
        lifetimes: Lifetimes,
        shutdown: CancellationToken,
        place: Place,
    ) {
        let in_requests = self.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(in_requests.clone());
            let mut routes = routes.clone();
            async move { routes.call(request.map(Body::new)).await }
        });
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_concurrent_streams(STREAMS_OF_ONE)
            .serve_connection(TokioIo::new(tls), service);
        let mut served = pin!(served);
        let why = tokio::select! {
            result = served.as_mut() => return self.closed(result),
            () = shutdown.cancelled() => "the control plane is shutting down",
            () = self.is_idle(lifetimes) => "no authenticated client uses it",
            () = sleep(lifetimes.age.mul_f64(rand::rng().random_range(0.75..1.25))) => "it has reached its maximum age",
        };
        debug!(peer = ?self.0.addresses.peer, why, "connection accepts no more calls");
        served.as_mut().graceful_shutdown();
        tokio::select! {
            result = served.as_mut() => return self.closed(result),
            () = sleep(PAUSE) => self.0.ended.cancel(),
        }
        if shutdown.is_cancelled() {
            // Calls in progress finish: the process waits for them.
            self.closed(served.await);
        } else if let Ok(result) = timeout(GRACE, served).await {
            self.closed(result);
        }
        drop(place);
    }

    fn closed(&self, result: hyper::Result<()>) {
        if let Err(error) = result {
            debug!(peer = ?self.0.addresses.peer, %error, "connection lost");
        }
    }

    async fn is_idle(&self, lifetimes: Lifetimes) {
        let mut calls = self.0.calls.subscribe();
        let first = timeout(lifetimes.first_call, calls.wait_for(|(_, any)| *any));
        if first.await.is_err() {
            return;
        }
        // The sender lives as long as the connection.
        while calls.wait_for(|(calls, _)| *calls == 0).await.is_ok() {
            if timeout(lifetimes.idle, calls.wait_for(|(calls, _)| *calls > 0))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

impl Call {
    /// Resolves when streams of this connection are to end, with the status for the client.
    pub(super) async fn ended(&self) -> Status {
        self.0.0.ended.cancelled().await;
        Status::unavailable(
            "the connection has reached its maximum age: open the stream again over a \
             new one",
        )
    }
}
