//! Released pods with remaining connections.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pod::Pod;

/// Each pod stays here until its last connection has ended, whether an agent waits for that or not. Then its sockets
/// and its certificate are dropped. A pod that was captured again meanwhile may be here more than once.
#[derive(Clone, Default)]
pub(super) struct Leaving {
    pods: Arc<Mutex<Vec<Left>>>,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Left {
    pod: Arc<Pod>,
    gone: CancellationToken,
}

impl Leaving {
    /// Adds a pod that no longer accepts.
    pub(super) fn take(&self, pod: Arc<Pod>) {
        pod.connections.close();
        let left = Left {
            pod,
            gone: CancellationToken::new(),
        };
        self.pods.lock().push(left.clone());
        let pods = Arc::clone(&self.pods);
        self.tasks.spawn(async move {
            let Left { pod, gone } = left;
            pod.connections.wait().await;
            pod.sockets.close();
            pods.lock().retain(|left| !Arc::ptr_eq(&left.pod, &pod));
            gone.cancel();
        });
    }

    pub(super) fn len(&self) -> usize {
        self.pods.lock().len()
    }

    /// Ends the connections of all pods with this UID.
    pub(super) fn end(&self, uid: &str) {
        for left in self.pods.lock().iter().filter(|left| &*left.pod.uid == uid) {
            left.pod.kill.cancel();
            left.pod.sockets.close();
        }
    }

    /// Ends every connection.
    pub(super) fn end_all(&self) {
        self.pods.lock().iter().for_each(|left| left.pod.kill.cancel());
    }

    /// Resolves when the pods that are here now with this UID are gone.
    pub(super) fn gone(&self, uid: &str) -> impl Future<Output = ()> + Send + 'static + use<> {
        let pods = self.pods.lock();
        let awaited: Vec<_> = pods
            .iter()
            .filter(|left| &*left.pod.uid == uid)
            .map(|left| left.gone.clone())
            .collect();
        async move {
            for gone in awaited {
                gone.cancelled().await;
            }
        }
    }

    /// Resolves when all are gone.
    pub(super) async fn all_gone(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
