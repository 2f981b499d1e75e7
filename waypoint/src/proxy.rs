//! The data path: HBONE in, what is inside it, and HBONE out.

mod admission;
mod counted;
mod inbound;
mod passthrough;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, MemoryBudget};
use ambit_runtime::AcceptLoop;
use ambit_tls::IdentityLease;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub(crate) use admission::{Admission, COPYING, HTTP2_CONNECTION, REQUEST};
pub(crate) use counted::{Counted, End, client_gone, is_clients};
pub(crate) use passthrough::{Opened, pass_through};

pub use crate::http::HttpTimeouts;
use crate::observe::{Observer, Refusal};
use crate::retries::RetryBudgets;
use crate::state::State;
use crate::upstream::Upstream;

/// For the TLS handshake of an HBONE client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For connecting to an endpoint's proxy, TLS included, and for its answer to a CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HBONE's flow-control window of a stream: bytes that wait here for a slow client or endpoint.
const STREAM_WINDOW: u32 = 256 << 10;
/// HBONE's largest DATA frame: as much of one that has not come whole waits on each connection.
const MAX_FRAME: u32 = 64 << 10;
/// Streams that a client opens at once on one HBONE connection, half of what is accepted.
const STREAMS: u32 = 100;
/// How long a CONNECT to an unknown address, and a denial of what is open for want of a policy, wait for configuration that may be under way.
pub(crate) const CONFIGURATION_WAIT: Duration = Duration::from_secs(2);

/// What all connections share.
pub(crate) struct Proxy {
    pub(crate) state: Arc<State>,
    pub(crate) observer: Arc<Observer>,
    /// The waypoint's own identity.
    lease: IdentityLease,
    hbone: HboneConfig,
    pub(crate) timeouts: HttpTimeouts,
    pub(crate) upstream: Arc<Upstream>,
    /// Cancelled when the waypoint is to go.
    pub(crate) drain: CancellationToken,
    /// The same, for whoever asks at each request.
    draining: AtomicBool,
    /// Ends what the drain deadline finds.
    kill: CancellationToken,
    /// HBONE connections.
    connections: TaskTracker,
    /// HTTP/2 requests, which run on tasks of their own.
    pub(crate) requests: TaskTracker,
    pub(crate) admission: Admission,
    pub(crate) retries: RetryBudgets,
}

impl Proxy {
    /// A proxy that serves what `state` says as `lease`'s identity, until `drain` is cancelled. Must be called within a Tokio runtime.
    pub(crate) fn new(
        state: Arc<State>,
        observer: Arc<Observer>,
        lease: IdentityLease,
        timeouts: HttpTimeouts,
        admission: Admission,
        drain: CancellationToken,
    ) -> Arc<Self> {
        let hbone = HboneConfig {
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: CONNECT_TIMEOUT,
            max_streams: STREAMS,
            stream_window: STREAM_WINDOW,
            max_frame_size: MAX_FRAME,
            // What arrives is counted by caller; this is for windows that are wide.
            memory: MemoryBudget::new(admission::memory_for_callers()),
            send_buffer: STREAM_WINDOW as usize,
            ..HboneConfig::default()
        };
        Arc::new(Self {
            upstream: Upstream::new(lease.clone(), hbone.clone(), timeouts.ping),
            state,
            observer,
            lease,
            hbone,
            timeouts,
            drain,
            draining: AtomicBool::new(false),
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            requests: TaskTracker::new(),
            admission,
            retries: RetryBudgets::default(),
        })
    }

    /// Whether the waypoint is to go.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Accepts HBONE connections until `drain` is cancelled.
    pub(crate) async fn accept(self: &Arc<Self>, listener: TcpListener) {
        let accepting = async {
            let mut accepting = AcceptLoop::new("hbone");
            loop {
                let (tcp, peer) = accepting.next(|| listener.accept()).await;
                self.admit(tcp, canonical(peer));
            }
        };
        self.drain.run_until_cancelled(accepting).await;
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Once `drain` is cancelled: resolves when the last request has ended, or at the deadline, which ends all that is left. Returns
    /// how many HBONE connections that were.
    pub(crate) async fn drained(&self, deadline: Duration) -> usize {
        self.draining.store(true, Ordering::Relaxed);
        self.connections.close();
        self.requests.close();
        let ended = async {
            self.connections.wait().await;
            self.requests.wait().await;
            self.upstream.drain().await;
        };
        match tokio::time::timeout(deadline, ended).await {
            Ok(()) => 0,
            Err(_) => {
                let left = self.connections.len();
                self.observer.cut();
                self.kill.cancel();
                self.connections.wait().await;
                left
            }
        }
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let Some(handshake) = self.admission.handshakes.take(&peer.ip()) else {
            self.observer.refused(Refusal::Overloaded);
            // The peer sees a reset; the connection may be gone already.
            let _ = tcp.set_zero_linger();
            return;
        };
        let proxy = Arc::clone(self);
        let span = tracing::debug_span!("connection", %peer);
        let task = async move {
            let kill = proxy.kill.clone();
            kill.run_until_cancelled(inbound::serve(proxy, tcp, peer, handshake))
                .await;
        };
        self.connections.spawn(task.instrument(span));
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
