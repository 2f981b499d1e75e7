//! Session affinity: the endpoint that a client had last.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Number of clients remembered for each service. Beyond it, the endpoint follows from the client's address alone, and
/// changes for some clients when endpoints come or go.
const CLIENTS: usize = 16_384;

/// A client, and the port of the service.
type Key = (IpAddr, u16);

/// Endpoints (UIDs) by client.
#[derive(Debug, Default)]
pub(crate) struct Affinity(Mutex<HashMap<Key, (Arc<str>, Instant)>>);

impl Affinity {
    pub(crate) fn get(&self, key: Key, timeout: Duration, now: Instant) -> Option<Arc<str>> {
        let clients = self.0.lock();
        let (uid, last) = clients.get(&key)?;
        (now.saturating_duration_since(*last) < timeout).then(|| Arc::clone(uid))
    }

    pub(crate) fn set(&self, key: Key, uid: &Arc<str>, timeout: Duration, now: Instant) {
        let mut clients = self.0.lock();
        if clients.len() >= CLIENTS && !clients.contains_key(&key) {
            clients.retain(|_, (_, last)| now.saturating_duration_since(*last) < timeout);
            if clients.len() >= CLIENTS {
                return;
            }
        }
        clients.insert(key, (Arc::clone(uid), now));
    }
}
