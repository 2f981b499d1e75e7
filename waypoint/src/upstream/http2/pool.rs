//! Which connection a request is sent on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::super::connect::{ConnectFailure, Connector};
use super::super::destination::{Destination, Key};
use super::{Http2Sender, Place, Shared, handshake, unreachable};

/// The connections to one endpoint.
#[derive(Default)]
struct Slot {
    connections: Mutex<Connections>,
    /// A place has become free, or an attempt to connect has ended.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Connections {
    open: Vec<Arc<Shared>>,
    /// Attempts to connect that have begun, and that have ended: one at a time.
    begun: u64,
    ended: u64,
    /// How the latest one failed.
    failed: Option<ConnectFailure>,
}

impl Connections {
    /// A place on one of the connections that take requests.
    fn place(&mut self) -> Option<Http2Sender> {
        self.open.retain(|shared| {
            // Streams on one that is not used any more go on; HTTP/2 ends it with the last one.
            shared.is_open() && !(shared.is_suspected() && shared.load.requests.load(Ordering::Acquire) == 0)
        });
        let free = self.open.iter().find(|shared| shared.has_room())?;
        Some(Http2Sender {
            place: Place::take(&free.load),
            connection: Arc::clone(free),
        })
    }
}

pub(in super::super) struct Http2Pool {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    maker: Arc<Maker>,
}

/// Makes connections.
struct Maker {
    connector: Arc<Connector>,
    tasks: TaskTracker,
    /// Between PINGs to endpoints without HBONE.
    ping: Duration,
}

impl Http2Pool {
    pub(in super::super) fn new(connector: Arc<Connector>, tasks: TaskTracker, ping: Duration) -> Self {
        let maker = Arc::new(Maker {
            connector,
            tasks,
            ping,
        });
        Self {
            slots: Mutex::default(),
            maker,
        }
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        Arc::clone(self.slots.lock().entry(key).or_default())
    }

    pub(in super::super) fn sweep(&self, timeout: Duration) {
        self.slots.lock().retain(|_, slot| {
            let mut connections = slot.connections.lock();
            connections.open.retain(|shared| {
                let idle = shared.load.requests.load(Ordering::Acquire) == 0;
                let unused = idle && shared.load.idle_since.lock().elapsed() >= timeout;
                shared.is_open() && !unused
            });
            !connections.open.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    pub(in super::super) fn evict(&self, workload: &str) {
        self.slots.lock().retain(|key, _| &*key.workload != workload);
    }

    pub(in super::super) fn clear(&self) {
        self.slots.lock().clear();
    }

    /// A place on a connection; one is made where there is none. Those who need it at the same time wait for the same attempt, or for a
    /// place that becomes free before. The attempt is nobody's own: it goes on when a request that waits for it is given up.
    pub(in super::super) async fn place(&self, to: &Destination) -> Result<Http2Sender, ConnectFailure> {
        let slot = self.slot(to.key());
        let mut awaited = None;
        loop {
            let changed = slot.changed.notified();
            {
                let mut connections = slot.connections.lock();
                if let Some(sender) = connections.place() {
                    return Ok(sender);
                }
                let over = awaited.is_some_and(|attempt| connections.ended >= attempt);
                match &connections.failed {
                    Some(failure) if over => return Err(failure.clone()),
                    // It came about, and others have taken all of its places.
                    None if over => awaited = None,
                    _ => {}
                }
                if connections.begun == connections.ended {
                    connections.begun += 1;
                    let attempt = Arc::clone(&self.maker).attempt(Arc::clone(&slot), to.clone());
                    self.maker.tasks.spawn(attempt);
                }
                awaited.get_or_insert(connections.begun);
            }
            changed.await;
        }
    }
}

impl Maker {
    async fn attempt(self: Arc<Self>, slot: Arc<Slot>, to: Destination) {
        let made = self.new_http2(&to, &slot.changed).await;
        let mut connections = slot.connections.lock();
        connections.ended += 1;
        connections.failed = match made {
            Ok(shared) => {
                connections.open.push(Arc::new(shared));
                None
            }
            Err(failure) => Some(failure),
        };
        drop(connections);
        slot.changed.notify_waiters();
    }

    async fn new_http2(&self, to: &Destination, changed: &Arc<Notify>) -> Result<Shared, ConnectFailure> {
        let io = self.connector.connect(to).await?;
        let old = self.connector.old();
        // Over HBONE, its own PINGs find out that a node is gone.
        let ping = to.hbone.is_none().then_some(self.ping);
        handshake(io, old, Arc::clone(changed), &self.tasks, ping)
            .await
            .map_err(|error| unreachable(to.address, error))
    }
}
