//! What the connections of one worker share.

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

/// What all workers share.
pub(crate) struct Common {
    pub(crate) state: Arc<State>,
    pub(crate) observer: Arc<Observer>,
    /// The waypoint's own identity.
    pub(crate) lease: IdentityLease,
    pub(crate) timeouts: HttpTimeouts,
    pub(crate) admission: Arc<Admission>,
    pub(crate) retries: RetryBudgets,
    /// Cancelled when the waypoint is to go.
    pub(crate) drain: CancellationToken,
}

/// What the connections of one worker share: the parts that all workers share, and pools, tasks and tokens that no other worker uses. So
/// no worker waits for a lock of another.
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
    draining: AtomicBool,
    /// Ends what the drain deadline finds.
    kill: CancellationToken,
    /// HBONE connections.
    pub(crate) connections: TaskTracker,
    /// HTTP/2 requests and mirrored requests, which run on tasks of their own.
    pub(crate) requests: TaskTracker,
    pub(crate) admission: Arc<Admission>,
    pub(crate) retries: RetryBudgets,
    /// What this waypoint awaits to hear of endpoints.
    pub(crate) skew: Skew,
}

impl Proxy {
    /// The part of one worker. Must be called within its runtime.
    pub(crate) fn new(common: &Common) -> Arc<Self> {
        let timeouts = common.timeouts.clone();
        let hbone = HboneConfig {
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: CONNECT_TIMEOUT,
            max_streams: STREAMS,
            stream_window: STREAM_WINDOW,
            max_frame_size: MAX_FRAME,
            memory: common.admission.windows.clone(),
            send_buffer: STREAM_WINDOW as usize,
            ..HboneConfig::default()
        };
        Arc::new(Self {
            upstream: Upstream::new(common.lease.clone(), hbone.clone(), &timeouts),
            state: Arc::clone(&common.state),
            observer: Arc::clone(&common.observer),
            lease: common.lease.clone(),
            hbone,
            skew: Skew::new(timeouts.skew),
            timeouts,
            drain: common.drain.child_token(),
            draining: AtomicBool::new(false),
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            requests: TaskTracker::new(),
            admission: Arc::clone(&common.admission),
            retries: common.retries.clone(),
        })
    }

    /// Whether the waypoint is to go.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The waypoint is to go: from now on clients are asked to use another replica.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Once `drain` is cancelled and nothing more is accepted: resolves when the last request has ended.
    pub(crate) async fn drained(&self) {
        self.connections.close();
        self.requests.close();
        self.connections.wait().await;
        self.requests.wait().await;
        self.upstream.drain().await;
    }

    /// Ends what is left.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    /// Runs a connection's task to its end, or until [`Proxy::kill`].
    pub(crate) async fn until_killed(&self, task: impl Future<Output = ()>) {
        self.kill.run_until_cancelled(task).await;
    }
}

#[cfg(test)]
mod tests;
