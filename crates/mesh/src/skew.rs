//! Late updates about pods.
//!
//! A pod that joins or leaves the mesh is redirected before or after a proxy receives that. If the record of a pod
//! cannot be true any more, a connection to the pod waits for the update instead of failing. So does one that a guard
//! has denied, as the caller does not know of the waypoint, or the guard not of the caller.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::frontend::Frontend;
use crate::mesh::Mesh;
use crate::workload::Workload;

/// How long connections wait for an update.
pub const SKEW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection that a guard has denied is tried again.
pub const GUARD_TIMEOUT: Duration = Duration::from_secs(2);
/// The most connections that wait for a guard at once: of a pod, or in a waypoint.
pub const MOST_GUARDED: usize = 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// The pauses of one connection that a guard has denied.
#[derive(Debug)]
pub struct GuardPauses {
    until: Instant,
    pause: Duration,
}

impl GuardPauses {
    /// From the first denial on, for this long.
    pub fn new(timeout: Duration) -> Self {
        Self {
            until: Instant::now() + timeout,
            pause: FIRST_PAUSE,
        }
    }

    /// When the pause that begins now is over, each twice as long as the one before; `None` when the time is.
    pub fn next_end(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let end = self.until.min(now + self.pause);
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        (now < self.until).then_some(end)
    }
}

/// Waits for updates about pods, up to a limit.
#[derive(Debug)]
pub struct Skew {
    timeout: Duration,
}

impl Skew {
    /// `timeout`: how long connections wait. For a pod that joins, the time runs from the first connection on, for all
    /// of them together, until the pod has joined or is removed: not every connection waits for a pod that cannot be
    /// captured.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// The remaining time in which connections wait for this pod, which accepts identities only and, by its record, is
    /// reached in plaintext: it is about to be captured, or has just been, and would refuse them. The first call starts
    /// that time.
    pub fn joins_within<F: Frontend>(&self, mesh: &Mesh<F>, uid: &str) -> Duration {
        match mesh.joining_since(uid) {
            Some(since) => self.timeout.saturating_sub(since.elapsed()),
            // The update has arrived.
            None => self.timeout,
        }
    }

    /// Waits; whether the update that such a pod has joined, or is removed, arrives in time: then the route can be
    /// looked up again.
    pub async fn has_joined<F: Frontend>(&self, mesh: &Mesh<F>, workload: &Workload) -> bool {
        let left = self.joins_within(mesh, &workload.uid);
        !left.is_zero() && changes(mesh, workload, left).await
    }

    /// Waits; whether the update that a pod has left, or is removed, arrives in time, counted from `since`: its HBONE
    /// port is closed.
    pub async fn has_left<F: Frontend>(&self, mesh: &Mesh<F>, workload: &Workload, since: Instant) -> bool {
        let left = self.timeout.saturating_sub(since.elapsed());
        !left.is_zero() && changes(mesh, workload, left).await
    }
}

impl Default for Skew {
    fn default() -> Self {
        Self::new(SKEW_TIMEOUT)
    }
}

/// Whether the update that the workload is removed or is reached in another way arrives in time.
async fn changes<F: Frontend>(mesh: &Mesh<F>, before: &Workload, time: Duration) -> bool {
    let mut changes = mesh.changed();
    let changed = async {
        loop {
            changes.borrow_and_update();
            let now = mesh.workload(&before.uid);
            if now.is_none_or(|now| now.protocol != before.protocol) {
                return true;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    };
    timeout(time, changed).await.unwrap_or(false)
}
