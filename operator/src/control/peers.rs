//! Places by address: one client cannot take all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The number of places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// For one address.
    pub(super) of_one: usize,
    /// In total.
    pub(super) of_all: usize,
}

/// The number of places in use by each address.
#[derive(Debug)]
pub(super) struct Peers {
    counts: Arc<Mutex<Counts>>,
    most: Limit,
}

#[derive(Debug, Default)]
struct Counts {
    by_address: HashMap<IpAddr, usize>,
    all: usize,
}

impl Peers {
    /// With this number of places.
    pub(super) fn new(most: Limit) -> Self {
        Self {
            counts: Arc::default(),
            most,
        }
    }

    /// A place for `peer`, unless its share is used up, or none is left.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.by_address.get(&peer).copied().unwrap_or_default();
        if count >= self.most.of_one || counts.all >= self.most.of_all {
            return None;
        }
        counts.by_address.insert(peer, count + 1);
        counts.all += 1;
        Some(Place {
            counts: Arc::clone(&self.counts),
            peer,
        })
    }
}

/// Returned when dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<Counts>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Entry::Occupied(mut count) = counts.by_address.entry(self.peer) {
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
    fn one_address_cannot_take_all_places() {
        let limit = Limit {
            of_one: 32,
            of_all: 40,
        };
        let peers = Peers::new(limit);
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let mut places: Vec<_> = (0..32).map(|_| peers.admit(greedy).unwrap()).collect();
        assert!(peers.admit(greedy).is_none());
        drop(peers.admit(other).unwrap());
        // A returned place may be taken again; addresses without places are forgotten.
        places.pop();
        places.push(peers.admit(greedy).unwrap());
        assert!(peers.admit(greedy).is_none());
        // The total limits all addresses together.
        places.extend((0..8).map(|_| peers.admit(other).unwrap()));
        assert!(peers.admit("10.0.0.3".parse().unwrap()).is_none());
        drop(places);
        let counts = peers.counts.lock().unwrap();
        assert!(counts.by_address.is_empty() && counts.all == 0);
    }
}
