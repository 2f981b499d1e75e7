//! What all connections share, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_hbone::HboneConfig;
use ambit_mesh::Skew;
use ambit_tls::IdentityLease;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::http::HttpTimeouts;
use crate::observe::Observer;
use crate::retries::RetryBudgets;
use crate::state::State;
use crate::upstream::Upstream;

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
    pub(crate) lease: IdentityLease,
    pub(crate) hbone: HboneConfig,
    pub(crate) timeouts: HttpTimeouts,
    pub(crate) upstream: Arc<Upstream>,
    /// Cancelled when the waypoint is to go.
    pub(crate) drain: CancellationToken,
    /// The same, for whoever asks at each request.
    pub(crate) draining: AtomicBool,
    /// Ends what the drain deadline finds.
    pub(crate) kill: CancellationToken,
    /// HBONE connections.
    pub(crate) connections: TaskTracker,
    /// HTTP/2 requests, which run on tasks of their own.
    pub(crate) requests: TaskTracker,
    pub(crate) admission: Admission,
    pub(crate) retries: RetryBudgets,
    /// What this waypoint awaits to hear of endpoints.
    pub(crate) skew: Skew,
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
            memory: admission.windows.clone(),
            send_buffer: STREAM_WINDOW as usize,
            ..HboneConfig::default()
        };
        Arc::new(Self {
            upstream: Upstream::new(lease.clone(), hbone.clone(), &timeouts),
            state,
            observer,
            lease,
            hbone,
            skew: Skew::new(timeouts.skew),
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
}

#[cfg(test)]
mod tests;
