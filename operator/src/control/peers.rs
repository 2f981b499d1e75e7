//! Places by address: one that takes all it can get does not keep the others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// For one address.
    pub(super) of_one: usize,
    /// For all together.
    pub(super) of_all: usize,
}

/// How much each address has under way of something.
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
    /// With so many places.
    pub(super) fn new(most: Limit) -> Self {
        Self {
            counts: Arc::default(),
            most,
        }
    }

    /// A place for one more of `peer`, unless it has as many as it may, or none is left.
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

/// Given back when dropped.
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
    fn one_address_does_not_take_the_places_of_all() {
        let limit = Limit {
            of_one: 32,
            of_all: 40,
        };
        let peers = Peers::new(limit);
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let mut places: Vec<_> = (0..32).map(|_| peers.admit(greedy).unwrap()).collect();
        assert!(peers.admit(greedy).is_none());
        drop(peers.admit(other).unwrap());
        // A place that is given back may be taken again, and nothing is kept of who has gone.
        places.pop();
        places.push(peers.admit(greedy).unwrap());
        assert!(peers.admit(greedy).is_none());
        // All together have as many as there are, whoever has them.
        places.extend((0..8).map(|_| peers.admit(other).unwrap()));
        assert!(peers.admit("10.0.0.3".parse().unwrap()).is_none());
        drop(places);
        let counts = peers.counts.lock().unwrap();
        assert!(counts.by_address.is_empty() && counts.all == 0);
    }
}
