//! Places by address: one that takes all it can get does not keep the others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How much each address has under way of something.
#[derive(Debug)]
pub(super) struct Peers {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

impl Peers {
    /// Each address may have `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            counts: Arc::default(),
            most,
        }
    }

    /// A place for one more of `peer`, unless it has as many as it may.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            counts: Arc::clone(&self.counts),
            peer,
        })
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_the_places_of_all() {
        let peers = Peers::new(32);
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let mut places: Vec<_> = (0..32).map(|_| peers.admit(greedy).unwrap()).collect();
        assert!(peers.admit(greedy).is_none());
        drop(peers.admit(other).unwrap());
        // A place that is given back may be taken again, and nothing is kept of who has gone.
        places.pop();
        places.push(peers.admit(greedy).unwrap());
        assert!(peers.admit(greedy).is_none());
        drop(places);
        assert!(peers.counts.lock().unwrap().is_empty());
    }
}
