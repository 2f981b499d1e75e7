//! What a proxy has yet to hear of pods.
//!
//! A pod that joins or leaves the mesh is redirected before or after a proxy hears of it. Where what is known of a pod cannot be true any
//! more, a connection to the pod waits for the news instead of failing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::frontend::Frontend;
use crate::mesh::Mesh;
use crate::workload::{Protocol, Workload};

/// How long connections wait for news.
pub const SKEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for news of pods, for so long at most.
pub struct Skew {
    timeout: Duration,
    /// Since when pods have been about to join, by UID. One that cannot be captured is not waited for by every connection.
    joining: Mutex<HashMap<Arc<str>, Instant>>,
}

impl Skew {
    /// Connections wait for so long. For a pod that joins it counts from the first of them on.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            joining: Mutex::default(),
        }
    }

    /// What is left of the time for which connections wait for this pod, which takes identities only and is known as one that is reached in
    /// plaintext: it is about to be captured, or was just now, and would refuse them.
    pub fn joins_within<F: Frontend>(&self, mesh: &Mesh<F>, uid: &Arc<str>) -> Duration {
        let mut pods = self.joining.lock();
        if pods.len() == pods.capacity() {
            pods.retain(|uid, _| {
                let known = mesh.workload(uid);
                known.is_some_and(|workload| workload.protocol != Protocol::Hbone)
            });
        }
        let since = *pods.entry(Arc::clone(uid)).or_insert_with(Instant::now);
        self.timeout.saturating_sub(since.elapsed())
    }

    /// Whether it is heard in time that such a pod has joined, or is gone: there is another way to be asked for.
    pub async fn has_joined<F: Frontend>(&self, mesh: &Mesh<F>, workload: &Workload) -> bool {
        let left = self.joins_within(mesh, &workload.uid);
        let joined = !left.is_zero() && changes(mesh, workload, left).await;
        if joined {
            self.joining.lock().remove(&workload.uid);
        }
        joined
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

impl fmt::Debug for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Skew")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
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
