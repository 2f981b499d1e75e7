//! Connections to endpoints: over HBONE as the waypoint itself, or in plaintext to pods that are not captured; kept alive, and shared by
//! all clients.

mod connect;
mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HboneConfig, HbonePool};
use ambit_identity::SpiffeId;
use ambit_tls::IdentityLease;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::state::Endpoint;
pub(crate) use connect::{ConnectFailure, UpstreamIo};
pub(crate) use http1::{Http1Connection, Http1Failure};
pub(crate) use http2::{Http2Failure, Place};

/// How long an HTTP/1 connection to an endpoint stays open without requests. Applications close theirs after 5 s to 75 s; one that closes
/// just then costs a second try.
const HTTP1_IDLE: Duration = Duration::from_secs(30);
/// The same for HTTP/2, where a GOAWAY says which requests were looked at.
const HTTP2_IDLE: Duration = Duration::from_secs(300);
/// How long a connection takes new requests, at most: then its endpoint gets another one, and whoever it speaks for has shown a new
/// certificate. Not all end at once.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Between two looks at connections that are closing.
const CLOSING: Duration = Duration::from_millis(20);
/// How often idle connections are looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// An endpoint, as far as connecting to it goes.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The workload's UID: a reused address is another workload.
    pub(crate) workload: Arc<str>,
    /// Whom HBONE must find there.
    pub(crate) identity: SpiffeId,
    /// The application's address.
    pub(crate) address: SocketAddr,
    /// Its proxy's, where it is reached over HBONE.
    pub(crate) hbone: Option<SocketAddr>,
}

/// What connections are shared among.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    workload: Arc<str>,
    address: SocketAddr,
    hbone: bool,
}

impl Destination {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            workload: Arc::clone(&endpoint.workload.uid),
            identity: endpoint.workload.identity.clone(),
            address: endpoint.target,
            hbone: endpoint.workload.hbone_address(endpoint.target),
        }
    }

    fn key(&self) -> Key {
        Key {
            workload: Arc::clone(&self.workload),
            address: self.address,
            hbone: self.hbone.is_some(),
        }
    }
}

/// [`MAX_AGE`], for one connection.
fn max_age() -> Duration {
    MAX_AGE.mul_f64(rand::random_range(0.8..1.0))
}

/// All connections to endpoints.
pub(crate) struct Upstream {
    hbone: HbonePool,
    /// The waypoint's own identity.
    lease: IdentityLease,
    connect_timeout: Duration,
    /// In the place of a pod's UID in pool keys: all connections are made from here.
    here: Arc<str>,
    http1: http1::Http1Pool,
    http2: http2::Http2Pool,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Takes the other ends of connections, which then are in memory.
    #[cfg(feature = "testing")]
    pub(crate) endpoints: std::sync::OnceLock<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

impl Upstream {
    /// Must be called within a Tokio runtime: one task looks after idle connections until [`Upstream::drain`].
    pub(crate) fn new(lease: IdentityLease, config: HboneConfig, ping: Duration) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let upstream = Arc::new(Self {
            connect_timeout: config.connect_timeout,
            hbone: HbonePool::new(config),
            lease,
            here: Arc::from(""),
            http1: http1::Http1Pool::default(),
            http2: http2::Http2Pool::new(tasks.clone(), ping),
            tasks: tasks.clone(),
            stop: CancellationToken::new(),
            #[cfg(feature = "testing")]
            endpoints: std::sync::OnceLock::new(),
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

    /// Lets go of the connections to workloads that are gone or live elsewhere now. Requests on them go on.
    pub(crate) fn evict_workload(&self, workload: &str) {
        self.http1.evict(workload);
        self.http2.evict(workload);
        self.hbone.evict_workload(workload);
    }

    /// Connections over HBONE that take new streams.
    pub(crate) fn hbone_connections(&self) -> usize {
        self.hbone.len()
    }

    /// An end of a new connection in memory, where there are such.
    #[cfg(feature = "testing")]
    fn in_memory(&self) -> Option<tokio::io::DuplexStream> {
        let (near, far) = tokio::io::duplex(64 << 10);
        self.endpoints.get()?.send(far).ok().map(|()| near)
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
        tokio::join!(self.tasks.wait(), self.hbone.drain());
    }
}
