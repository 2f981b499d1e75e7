//! All pods served, as the agent wants them.

mod leaving;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_wire::broker::PodIdentity;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::leaving::Leaving;
use crate::broker::{Outbox, PodEvents};
use crate::pod::Pod;
use crate::proxy::{Direction, Proxy};

/// The pods of this node that are captured.
pub(crate) struct Pods {
    proxy: Arc<Proxy>,
    outbox: Outbox,
    served: Mutex<HashMap<String, Served>>,
    leaving: Leaving,
    acceptors: TaskTracker,
    /// No pod is taken any more; set while `served` is locked.
    ending: AtomicBool,
    snapshot_done: AtomicBool,
    connected: AtomicBool,
}

struct Served {
    pod: Arc<Pod>,
    listeners: [OwnedFd; 3],
    /// Ends the accept loops on these listeners.
    accepting: CancellationToken,
}

const SHRINK_INTERVAL: Duration = Duration::from_secs(30);

const DIRECTIONS: [Direction; 3] = [
    Direction::Outbound,
    Direction::InboundPlaintext,
    Direction::Inbound,
];

impl Pods {
    pub(crate) fn new(proxy: Arc<Proxy>, outbox: Outbox) -> Self {
        Self {
            proxy,
            outbox,
            served: Mutex::default(),
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

    /// Gives back, from time to time, sockets that pods have no use for any more. Runs until it is dropped.
    pub(crate) async fn shrink_stores(&self) {
        loop {
            tokio::time::sleep(SHRINK_INTERVAL).await;
            let served: Vec<_> = self
                .served
                .lock()
                .values()
                .map(|served| Arc::clone(&served.pod))
                .collect();
            served.iter().for_each(|pod| pod.sockets.shrink());
        }
    }

    /// Whether there is a node agent.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Pods served, and pods whose last connections are awaited.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.served.lock().len(), self.leaving.len())
    }

    /// Serves nothing new; resolves when the last connection of all pods has ended.
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

    /// Stops accepting. The listeners themselves are the agent's: they are closed here, never shut down.
    fn release(&self, served: Served) {
        served.accepting.cancel();
        served.pod.drain.cancel();
        self.proxy.pool.evict_pod(&served.pod.uid);
        self.leaving.take(served.pod);
    }

    fn start(&self, pod: &Arc<Pod>, listeners: &[OwnedFd; 3]) -> std::io::Result<CancellationToken> {
        let accepting = CancellationToken::new();
        let guard = accepting.clone().drop_guard();
        for (fd, direction) in listeners.iter().zip(DIRECTIONS) {
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
            // One of the pod's connections itself: what it accepts as it ends is still waited for.
            let accept = self.acceptors.track_future(accept.instrument(span));
            pod.connections.spawn(accept);
        }
        guard.disarm();
        Ok(accepting)
    }

    fn forget(&self, uid: &str, force: bool) {
        if let Some(served) = self.served.lock().remove(uid) {
            tracing::info!(uid, force, "pod released");
            self.release(served);
        }
        if force {
            self.leaving.end(uid);
        }
    }
}

impl PodEvents for Pods {
    fn held(&self) -> Vec<(PodIdentity, [OwnedFd; 3])> {
        let served = self.served.lock();
        let duplicate = |listeners: &[OwnedFd; 3]| {
            let [outbound, plaintext, hbone] = listeners;
            let copies = [outbound, plaintext, hbone].map(|fd| fd.as_fd().try_clone_to_owned());
            let [Ok(outbound), Ok(plaintext), Ok(hbone)] = copies else {
                return None;
            };
            Some([outbound, plaintext, hbone])
        };
        let held = served.values().filter_map(|served| {
            // Out of descriptors: the agent makes new listeners then.
            Some((
                served.pod.info.load().identity.clone(),
                duplicate(&served.listeners)?,
            ))
        });
        held.collect()
    }

    fn add(&self, identity: PodIdentity, listeners: [OwnedFd; 3]) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| format!("pod {}: {error}", identity.uid);
        let uid = identity.uid.clone();
        let mut served = self.served.lock();
        if self.ending.load(Ordering::Acquire) {
            return Err("this ztunnel is ending".to_owned());
        }
        let inode = |served: &Served| served.pod.info.load().identity.netns_inode;
        let renewed = served
            .get(&uid)
            .is_some_and(|known| inode(known) != identity.netns_inode);
        if renewed && let Some(former) = served.remove(&uid) {
            // The pod's sandbox was made anew: sockets of the old one are of no use, and its connections are dead.
            former.pod.kill.cancel();
            former.pod.sockets.close();
            self.release(former);
        }
        if let Some(known) = served.get_mut(&uid) {
            known
                .pod
                .update(identity.clone(), &self.proxy.certificates)
                .map_err(|error| text(&error))?;
            let accepting = self.start(&known.pod, &listeners).map_err(|error| text(&error))?;
            std::mem::replace(&mut known.accepting, accepting).cancel();
            known.listeners = listeners;
            return Ok(());
        }
        let pod = Pod::new(
            identity.clone(),
            &self.proxy.certificates,
            self.outbox.clone(),
            &self.proxy.limits,
        )
        .map_err(|error| text(&error))?;
        let pod = Arc::new(pod);
        let accepting = self.start(&pod, &listeners).map_err(|error| text(&error))?;
        tracing::info!(
            uid,
            namespace = identity.namespace,
            name = identity.name,
            identity = %pod.lease.load().identity(),
            "serving pod"
        );
        served.insert(
            uid,
            Served {
                pod,
                listeners,
                accepting,
            },
        );
        Ok(())
    }

    fn remove(&self, uid: &str, force: bool) -> impl Future<Output = ()> + Send + 'static {
        self.forget(uid, force);
        self.leaving.gone(uid)
    }

    fn sockets(&self, uid: &str, ip_version: u32, sockets: Vec<OwnedFd>, error: &str) {
        if !error.is_empty() {
            tracing::warn!(uid, error, "the node agent could not make sockets");
        }
        let pod = self.served.lock().get(uid).map(|served| Arc::clone(&served.pod));
        let pod = pod.or_else(|| self.leaving.last(uid));
        if let Some(pod) = pod {
            pod.sockets.deliver(ip_version, sockets, error);
        }
    }

    fn connected(&self) {
        self.connected.store(true, Ordering::Release);
        let served: Vec<_> = self
            .served
            .lock()
            .values()
            .map(|served| Arc::clone(&served.pod))
            .collect();
        for pod in served {
            pod.sockets.reconnected();
        }
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
        self.snapshot_done.store(true, Ordering::Release);
        tracing::info!(pods = named.len(), "the node agent has named all pods");
    }

    fn disconnected(&self) {
        self.connected.store(false, Ordering::Release);
    }
}
