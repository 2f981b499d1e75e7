//! What a proxy has yet to hear of pods.
//!
//! A pod that joins or leaves the mesh is redirected before or after a proxy hears of it. Where what is known of a pod cannot be true any
//! more, a connection to the pod waits for the news instead of failing.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::frontend::Frontend;
use crate::mesh::Mesh;
use crate::workload::Workload;

/// How long connections wait for news.
pub const SKEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for news of pods, for so long at most.
#[derive(Debug)]
pub struct Skew {
    timeout: Duration,
}

impl Skew {
    /// Connections wait for so long. For a pod that joins, the time runs from the first connection on, for all of them together, until the
    /// pod has joined or is gone: one that cannot be captured is not waited for by every connection.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// What is left of the time for which connections wait for this pod, which takes identities only and is known as one that is reached in
    /// plaintext: it is about to be captured, or was just now, and would refuse them. The first one to ask begins that time.
    pub fn joins_within<F: Frontend>(&self, mesh: &Mesh<F>, uid: &str) -> Duration {
        match mesh.joining_since(uid) {
            Some(since) => self.timeout.saturating_sub(since.elapsed()),
            // It has been heard.
            None => self.timeout,
        }
    }

    /// Whether it is heard in time that such a pod has joined, or is gone: there is another way to be asked for.
    pub async fn has_joined<F: Frontend>(&self, mesh: &Mesh<F>, workload: &Workload) -> bool {
        let left = self.joins_within(mesh, &workload.uid);
        !left.is_zero() && changes(mesh, workload, left).await
    }

    /// Whether it is heard in time, counted from `since`, that a pod has left, or is gone, where nothing listens for HBONE any more.
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

/// Whether it is heard in time that the workload is gone or is reached in another way.
async fn changes<F: Frontend>(mesh: &Mesh<F>, before: &Workload, time: Duration) -> bool {
    let mut changes = mesh.workloads_changed();
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
