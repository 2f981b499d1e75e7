//! All pods that the agent has passed.

mod leaving;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_wire::broker::PodIdentity;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::leaving::Leaving;
use crate::broker::{AddError, DESCRIPTORS_PER_POD, PodEvents};
use crate::observe::Direction;
use crate::pod::Pod;
use crate::proxy::Proxy;
use crate::sockets::Handed;

/// The pods of this node that are captured.
pub(crate) struct Pods {
    proxy: Arc<Proxy>,
    served: Mutex<HashMap<String, Served>>,
    /// UIDs of pods that the agent wants served and that are not.
    refused: Mutex<HashSet<String>>,
    leaving: Leaving,
    acceptors: TaskTracker,
    /// Set while `served` is locked: no more pods are accepted.
    ending: AtomicBool,
    snapshot_done: AtomicBool,
    connected: AtomicBool,
}

struct Served {
    pod: Arc<Pod>,
    handed: Arc<Handed>,
    /// Ends the accept loops on these listeners.
    accepting: CancellationToken,
}

const DIRECTIONS: [Direction; 3] = [
    Direction::Outbound,
    Direction::InboundPlaintext,
    Direction::Inbound,
];

impl Pods {
    pub(crate) fn new(proxy: Arc<Proxy>) -> Self {
        Self {
            proxy,
            served: Mutex::default(),
            refused: Mutex::default(),
            leaving: Leaving::default(),
            acceptors: TaskTracker::new(),
            ending: AtomicBool::new(false),
            snapshot_done: AtomicBool::new(false),
            connected: AtomicBool::new(false),
        }
    }

    /// Whether the agent has named all pods of the node, once.
    pub(crate) fn is_synced(&self) -> bool {
        self.snapshot_done.load(Ordering::Acquire)
    }

    /// Whether a node agent is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Pods served, and pods with remaining connections.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.served.lock().len(), self.leaving.len())
    }

    /// Pods that could not be served when the agent last asked.
    pub(crate) fn refused(&self) -> usize {
        self.refused.lock().len()
    }

    /// Accepts nothing new; resolves when the last connection of all pods has ended.
    pub(crate) async fn drain(&self) {
        let served: Vec<_> = {
            let mut served = self.served.lock();
            self.ending.store(true, Ordering::Release);
            served.drain().map(|(_, served)| served).collect()
        };
        for served in served {
            self.release(served);
        }
        self.acceptors.close();
        self.acceptors.wait().await;
        self.leaving.all_gone().await;
    }

    /// Ends every connection.
    pub(crate) fn kill(&self) {
        self.leaving.end_all();
    }

    /// Stops accepting. The listeners belong to the agent: they are closed here, never shut down.
    fn release(&self, served: Served) {
        served.accepting.cancel();
        served.pod.drain.cancel();
        self.proxy.metrics.pod_stopped();
        self.proxy.pool.evict_pod(&served.pod.uid);
        self.leaving.take(served.pod);
    }

    fn start(&self, pod: &Arc<Pod>, handed: &Handed) -> std::io::Result<CancellationToken> {
        let accepting = CancellationToken::new();
        let guard = accepting.clone().drop_guard();
        // Listeners and their connections belong to the threads for connections.
        let _data = self.proxy.data.enter();
        for (fd, direction) in handed.listeners.iter().zip(DIRECTIONS) {
            let listener = std::net::TcpListener::from(fd.try_clone()?);
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let accept = Arc::clone(&self.proxy).accept(listener, Arc::clone(pod), direction);
            let token = accepting.clone();
            let identity = &pod.info.load().identity;
            let span = tracing::info_span!(
                "pod",
                namespace = identity.namespace,
                name = identity.name,
                direction = direction.name()
            );
            let accept = async move {
                token.run_until_cancelled(accept).await;
            };
            // This counts as a connection of the pod: connections accepted while it ends are still waited for.
            let accept = self.acceptors.track_future(accept.instrument(span));
            pod.connections.spawn(accept);
        }
        guard.disarm();
        Ok(accepting)
    }

    fn forget(&self, uid: &str, force: bool) {
        self.refused.lock().remove(uid);
        if let Some(served) = self.served.lock().remove(uid) {
            tracing::info!(uid, force, "pod released");
            self.release(served);
        }
        if force {
            self.leaving.end(uid);
        }
    }

    fn serve(&self, identity: PodIdentity, handed: Handed) -> Result<(), AddError> {
        let handed = Arc::new(handed);
        let uid = identity.uid.clone();
        let mut served = self.served.lock();
        if self.ending.load(Ordering::Acquire) {
            return Err(AddError::Ending);
        }
        let inode = |served: &Served| served.pod.info.load().identity.netns_inode;
        let renewed = served
            .get(&uid)
            .is_some_and(|known| inode(known) != identity.netns_inode);
        if renewed && let Some(former) = served.remove(&uid) {
            // The pod's sandbox was replaced: sockets of the old one are useless, and its connections are dead.
            former.pod.kill.cancel();
            former.pod.sockets.close();
            self.release(former);
        }
        if let Some(known) = served.get_mut(&uid) {
            known.pod.update(identity.clone(), &self.proxy.certificates)?;
            let accepting = self.start(&known.pod, &handed)?;
            std::mem::replace(&mut known.accepting, accepting).cancel();
            known.pod.sockets.replace(&handed.seeds);
            known.handed = handed;
            return Ok(());
        }
        let budget = &self.proxy.descriptors;
        let name: Arc<str> = uid.as_str().into();
        let descriptors = budget
            .holder(&name)
            .take_many(DESCRIPTORS_PER_POD)
            .ok_or_else(|| AddError::Descriptors(budget.taken()))?;
        let pod = Pod::new(
            identity.clone(),
            &self.proxy.certificates,
            &handed.seeds,
            &self.proxy.stores,
            &self.proxy.limits,
            descriptors,
            self.proxy.hbone.memory.borrower(&name),
        )?;
        let pod = Arc::new(pod);
        let accepting = self.start(&pod, &handed)?;
        tracing::info!(
            uid,
            namespace = identity.namespace,
            name = identity.name,
            identity = %pod.lease.load().identity(),
            "serving pod"
        );
        self.proxy.metrics.pod_started();
        served.insert(
            uid,
            Served {
                pod,
                handed,
                accepting,
            },
        );
        Ok(())
    }
}

impl PodEvents for Pods {
    fn held(&self) -> Vec<(PodIdentity, Arc<Handed>)> {
        let served = self.served.lock();
        let held = |served: &Served| {
            let identity = served.pod.info.load().identity.clone();
            (identity, Arc::clone(&served.handed))
        };
        served.values().map(held).collect()
    }

    fn add(&self, identity: PodIdentity, handed: Handed) -> Result<(), AddError> {
        let uid = identity.uid.clone();
        let added = self.serve(identity, handed);
        let mut refused = self.refused.lock();
        match &added {
            Ok(()) => _ = refused.remove(&uid),
            Err(_) => _ = refused.insert(uid),
        }
        added
    }

    fn remove(&self, uid: &str, force: bool) -> impl Future<Output = ()> + Send + 'static {
        self.forget(uid, force);
        self.leaving.gone(uid)
    }

    fn connected(&self) {
        self.connected.store(true, Ordering::Release);
    }

    fn snapshot_done(&self, named: &[String]) {
        let gone: Vec<_> = self
            .served
            .lock()
            .keys()
            .filter(|uid| !named.contains(uid))
            .cloned()
            .collect();
        for uid in gone {
            self.forget(&uid, true);
        }
        self.refused.lock().retain(|uid| named.contains(uid));
        self.snapshot_done.store(true, Ordering::Release);
        tracing::info!(pods = named.len(), "the node agent has sent all pods");
    }

    fn disconnected(&self) {
        self.connected.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise its connections would prevent a stopping ztunnel from ending.
    #[tokio::test]
    async fn stopping_ztunnel_accepts_no_pod() {
        let pods = Pods::new(crate::proxy::testing::proxy(false));
        pods.drain().await;
        let added = pods.add(PodIdentity::default(), handed());
        assert!(matches!(added, Err(AddError::Ending)), "{added:?}");
        assert_eq!(pods.counts(), (0, 0));
    }

    fn handed() -> Handed {
        let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        Handed::new(std::iter::repeat_with(listener).take(5).collect()).unwrap()
    }

    #[tokio::test]
    async fn pods_are_counted_as_served_pending_started_and_stopped() {
        let pods = Pods::new(crate::proxy::testing::proxy(false));
        let metrics = Arc::clone(&pods.proxy.metrics);
        let counted = || {
            let text = metrics.render(crate::observe::Gauges::default()).unwrap();
            ["started", "stopped"].map(|what| {
                let name = format!("workload_manager_proxies_{what}_total ");
                let mut lines = text.lines();
                let value = lines.find_map(|line| line.strip_prefix(&name)).unwrap();
                value.parse::<u64>().unwrap()
            })
        };
        let identity = |namespace: &str| PodIdentity {
            uid: "server-uid".into(),
            namespace: namespace.into(),
            service_account: "server".into(),
            ..PodIdentity::default()
        };
        assert_eq!((pods.counts().0, pods.refused(), counted()), (0, 0, [0, 0]));
        // No identity can have this namespace.
        pods.add(identity("no namespace/"), handed()).unwrap_err();
        assert_eq!((pods.counts().0, pods.refused(), counted()), (0, 1, [0, 0]));
        pods.add(identity("test"), handed()).unwrap();
        assert_eq!((pods.counts().0, pods.refused(), counted()), (1, 0, [1, 0]));
        // The agent says more of a pod that is served.
        pods.add(identity("test"), handed()).unwrap();
        assert_eq!((pods.counts().0, pods.refused(), counted()), (1, 0, [1, 0]));
        pods.remove("server-uid", false).await;
        assert_eq!((pods.counts().0, pods.refused(), counted()), (0, 0, [1, 1]));
        // Nor does one wait that is gone before it could be served, whether the agent says so or names it no more.
        pods.add(identity("no namespace/"), handed()).unwrap_err();
        pods.remove("server-uid", false).await;
        assert_eq!(pods.refused(), 0);
        pods.add(identity("no namespace/"), handed()).unwrap_err();
        pods.snapshot_done(&[]);
        assert_eq!(pods.refused(), 0);
    }
}
