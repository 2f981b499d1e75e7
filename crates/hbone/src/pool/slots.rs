//! The connections that there are, and the attempts to make some.

use std::collections::HashMap;
use std::collections::hash_map;
use std::net::SocketAddr;
use std::sync::Arc;

use ambit_identity::SpiffeId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Connection;
use crate::{ConnectError, HboneConfig};

/// What connections may be shared among. Two requests with the same key may use one connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// As whom we connect.
    pub source: SpiffeId,
    /// Whom we accept at the other end.
    pub destination: Arc<[SpiffeId]>,
    /// Where to.
    pub address: SocketAddr,
    /// The destination workload's UID: a reused address is another workload.
    pub workload: Arc<str>,
    /// UID of the pod in whose network namespace the connection is made.
    pub pod: Arc<str>,
}

/// What the pool's tasks share.
pub(super) struct Inner {
    pub(super) config: HboneConfig,
    pub(super) slots: Mutex<HashMap<PoolKey, Slot>>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) connections: Vec<Arc<Connection>>,
    pub(super) flight: Option<Flight>,
}

/// An attempt under way.
pub(super) type Flight = watch::Receiver<Option<Result<(), ConnectError>>>;

impl Inner {
    /// Puts a new connection in, unless the slot was evicted while it was made.
    pub(super) fn finish(&self, key: &PoolKey, flight: &Flight, made: Option<&Arc<Connection>>) {
        let mut slots = self.slots.lock();
        let hash_map::Entry::Occupied(mut slot) = slots.entry(key.clone()) else {
            return;
        };
        if !slot
            .get()
            .flight
            .as_ref()
            .is_some_and(|current| current.same_channel(flight))
        {
            return;
        }
        slot.get_mut().flight = None;
        slot.get_mut().connections.extend(made.cloned());
        if slot.get().connections.is_empty() {
            slot.remove();
        }
    }

    /// Takes connections out that take no new streams. One of the same key that does stays.
    pub(super) fn forget(&self, key: &PoolKey) {
        let mut slots = self.slots.lock();
        let hash_map::Entry::Occupied(mut slot) = slots.entry(key.clone()) else {
            return;
        };
        slot.get_mut()
            .connections
            .retain(|connection| connection.state.is_open());
        if slot.get().connections.is_empty() && slot.get().flight.is_none() {
            slot.remove();
        }
    }
}
