//! Connections to endpoints: over HBONE as the waypoint itself, or in plaintext to pods that are not captured; kept alive, and shared by
//! all clients of a worker.

mod connect;
mod connection;
mod destination;
mod http1;
mod http2;

use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::HboneConfig;
use ambit_tls::IdentityLease;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::HttpTimeouts;

pub(crate) use connect::ConnectFailure;
use connect::Connector;
pub(crate) use connection::UpstreamIo;
pub(crate) use destination::Destination;
pub(crate) use http1::{Http1Connection, Http1Failure};
pub(crate) use http2::{Http2Failure, Http2Sender, Place};

/// How long an HTTP/1 connection to an endpoint stays open without requests. Applications close theirs after 5 s to 75 s; one that closes
/// just then costs a second try.
const HTTP1_IDLE: Duration = Duration::from_secs(30);
/// The same for HTTP/2, where a GOAWAY says which requests were looked at.
const HTTP2_IDLE: Duration = Duration::from_secs(300);
/// Between two looks at connections that are closing.
const CLOSING: Duration = Duration::from_millis(20);
/// How often idle connections are looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// All connections of a worker to endpoints.
pub(crate) struct Upstream {
    connector: Arc<Connector>,
    http1: http1::Http1Pool,
    http2: http2::Http2Pool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Upstream {
    /// Must be called within the worker's runtime: one task looks after idle connections until [`Upstream::drain`].
    pub(crate) fn new(lease: IdentityLease, config: HboneConfig, timeouts: &HttpTimeouts) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let connector = Arc::new(Connector::new(lease, config, timeouts.age));
        let upstream = Arc::new(Self {
            http1: http1::Http1Pool::default(),
            http2: http2::Http2Pool::new(Arc::clone(&connector), tasks.clone(), timeouts.ping),
            connector,
            tasks: tasks.clone(),
            stop: CancellationToken::new(),
        });
        let (weak, stop) = (Arc::downgrade(&upstream), upstream.stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            loop {
                ticks.tick().await;
                let Some(upstream) = weak.upgrade() else {
                    return;
                };
                upstream.http1.sweep(HTTP1_IDLE);
                upstream.http2.sweep(HTTP2_IDLE);
            }
        }));
        upstream
    }

    /// A new connection to the application.
    pub(crate) async fn connect(&self, to: &Destination) -> Result<UpstreamIo, ConnectFailure> {
        self.connector.connect(to).await
    }

    /// An idle HTTP/1 connection, if there is one.
    pub(crate) fn idle_http1(&self, to: &Destination) -> Option<Box<Http1Connection>> {
        self.http1.take(&to.key())
    }

    /// A new HTTP/1 connection.
    pub(crate) async fn http1(&self, to: &Destination) -> Result<Box<Http1Connection>, ConnectFailure> {
        Http1Connection::open(&self.connector, to).await
    }

    /// Takes an HTTP/1 connection back whose answer has ended; it is closed where it cannot take another request.
    pub(crate) fn give_back(&self, connection: Box<Http1Connection>) {
        if !self.stop.is_cancelled() {
            self.http1.give_back(connection);
        }
    }

    /// A place on an HTTP/2 connection.
    pub(crate) async fn http2(&self, to: &Destination) -> Result<Http2Sender, ConnectFailure> {
        self.http2.place(to).await
    }

    /// Lets go of the connections to workloads that are gone or live elsewhere now. Requests on them go on.
    pub(crate) fn evict_workload(&self, workload: &str) {
        self.http1.evict(workload);
        self.http2.evict(workload);
        self.connector.hbone.evict_workload(workload);
    }

    /// Connections over HBONE that take new streams.
    pub(crate) fn hbone_connections(&self) -> usize {
        self.connector.hbone.len()
    }

    /// Takes the other ends of connections, which then are in memory.
    #[cfg(feature = "testing")]
    pub(crate) fn endpoints(
        &self,
    ) -> &std::sync::OnceLock<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>> {
        &self.connector.endpoints
    }

    /// Lets go of idle connections.
    #[cfg(feature = "testing")]
    pub(crate) fn forget(&self) {
        self.http1.clear();
        self.http2.clear();
    }

    /// Closes idle connections, opens no more, and resolves when the last request has ended.
    pub(crate) async fn drain(&self) {
        self.stop.cancel();
        self.http1.clear();
        self.http2.clear();
        self.tasks.close();
        while !self.http1.is_empty() {
            tokio::time::sleep(CLOSING).await;
        }
        tokio::join!(self.tasks.wait(), self.connector.hbone.drain());
    }
}
