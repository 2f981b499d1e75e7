//! Places, or bytes, that several holders share so that none of them takes all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A limited number of places, and how many each holder has.
///
/// A holder may have at most as many places as are free. So a single holder gets at most half of all places, two get a
/// third each, and the same share is left for the next holder. A fixed limit per holder would be too low for a single
/// holder. (This is the dynamic threshold of packet buffers: Choudhury and Hahne, 1998.)
#[derive(Debug)]
pub struct Shares<K: Hash + Eq>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K: Hash + Eq> {
    places: usize,
    taken: AtomicUsize,
    holders: Mutex<HashMap<K, Weak<Holder<K>>>>,
}

/// One holder. Keep it while it often takes places: finding a holder needs a lock, taking a place does not.
#[derive(Debug)]
pub struct Holder<K: Hash + Eq> {
    key: K,
    taken: AtomicUsize,
    shares: Arc<Inner<K>>,
}

/// One or several places, until this is dropped.
#[derive(Debug)]
pub struct Share<K: Hash + Eq> {
    holder: Arc<Holder<K>>,
    places: usize,
}

impl<K: Hash + Eq> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// A pool with this many places.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Inner {
            places,
            taken: AtomicUsize::new(0),
            holders: Mutex::default(),
        }))
    }

    /// The holder with this key.
    pub fn holder(&self, key: &K) -> Arc<Holder<K>> {
        let mut holders = self.0.holders.lock();
        let new = || {
            Arc::new(Holder {
                key: key.clone(),
                taken: AtomicUsize::new(0),
                shares: Arc::clone(&self.0),
            })
        };
        match holders.entry(key.clone()) {
            Entry::Occupied(mut known) => known.get().upgrade().unwrap_or_else(|| {
                let holder = new();
                known.insert(Arc::downgrade(&holder));
                holder
            }),
            Entry::Vacant(unknown) => {
                let holder = new();
                unknown.insert(Arc::downgrade(&holder));
                holder
            }
        }
    }

    /// A place for the holder with this key, unless the holder has as many as are free.
    pub fn take(&self, key: &K) -> Option<Share<K>> {
        self.holder(key).take()
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire)
    }
}

impl<K: Hash + Eq> Holder<K> {
    /// A place, unless the holder has as many as are free.
    pub fn take(self: &Arc<Self>) -> Option<Share<K>> {
        self.take_many(1)
    }

    /// All of these places, or none, as for [`Holder::add`].
    pub fn take_many(self: &Arc<Self>, places: usize) -> Option<Share<K>> {
        let holder = Arc::clone(self);
        // Created only after the places are taken, since its drop gives them back.
        self.add(places).then(|| Share { holder, places })
    }
}

/// Places of one holder, whose number changes, until this is dropped.
#[derive(Debug)]
pub struct Held<K: Hash + Eq> {
    holder: Arc<Holder<K>>,
    places: usize,
}

impl<K: Hash + Eq> Holder<K> {
    /// No places yet.
    pub fn nothing(self: &Arc<Self>) -> Held<K> {
        let holder = Arc::clone(self);
        Held { holder, places: 0 }
    }

    /// Takes all of these places, or none: the holder may then have at most the number that was free, less one. Give
    /// them back with
    /// [`Holder::subtract`].
    pub fn add(&self, places: usize) -> bool {
        let own = self.taken.fetch_add(places, Ordering::AcqRel);
        let fits = |taken: usize| {
            let needed = (own + taken).checked_add(places.checked_mul(2)?)?;
            (needed <= self.shares.places + 1).then_some(taken + places)
        };
        let taken = &self.shares.taken;
        let fitted = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        if fitted.is_err() {
            self.taken.fetch_sub(places, Ordering::AcqRel);
        }
        fitted.is_ok()
    }

    /// Takes these places even if fewer are free. Give them back with [`Holder::subtract`].
    pub fn add_anyway(&self, places: usize) {
        self.taken.fetch_add(places, Ordering::AcqRel);
        self.shares.taken.fetch_add(places, Ordering::AcqRel);
    }

    /// Gives back places that were added.
    pub fn subtract(&self, places: usize) {
        self.taken.fetch_sub(places, Ordering::AcqRel);
        self.shares.taken.fetch_sub(places, Ordering::AcqRel);
    }

    /// Whether the holder has three quarters of its share.
    pub fn is_short(&self) -> bool {
        let own = self.taken.load(Ordering::Relaxed);
        let taken = self.shares.taken.load(Ordering::Relaxed);
        // Its share is half of the free places and its own places together.
        let free = self.shares.places.saturating_sub(taken);
        own.saturating_mul(5) > free.saturating_mul(3)
    }
}

impl<K: Hash + Eq> Held<K> {
    /// Adds all of these places, or none, as for [`Holder::add`].
    pub fn grow(&mut self, places: usize) -> bool {
        let fits = self.holder.add(places);
        if fits {
            self.places += places;
        }
        fits
    }

    /// Adds these places even if fewer are free.
    pub fn grow_anyway(&mut self, places: usize) {
        self.holder.add_anyway(places);
        self.places += places;
    }

    /// Gives back these places, or all if there are fewer.
    pub fn shrink(&mut self, places: usize) {
        let places = places.min(self.places);
        self.holder.subtract(places);
        self.places -= places;
    }

    /// The number of places.
    pub fn places(&self) -> usize {
        self.places
    }
}

impl<K: Hash + Eq> Drop for Held<K> {
    fn drop(&mut self) {
        self.shrink(self.places);
    }
}

impl<K: Hash + Eq> Drop for Holder<K> {
    fn drop(&mut self) {
        let mut holders = self.shares.holders.lock();
        // Another holder may have the same key by now.
        if holders
            .get(&self.key)
            .is_some_and(|known| known.strong_count() == 0)
        {
            holders.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq> Share<K> {
    /// The key of the holder.
    pub fn holder(&self) -> &Arc<Holder<K>> {
        &self.holder
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        self.holder.subtract(self.places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(shares: &Shares<&'static str>, key: &'static str) -> Vec<Share<&'static str>> {
        std::iter::from_fn(|| shares.take(&key)).collect()
    }

    #[test]
    fn who_takes_all_leaves_as_much_for_the_next() {
        let shares = Shares::new(12);
        let greedy = all(&shares, "greedy");
        assert_eq!(greedy.len(), 6);
        let second = all(&shares, "second");
        assert_eq!(second.len(), 3);
        let third = all(&shares, "third");
        assert_eq!(third.len(), 2);
        assert_eq!(shares.taken(), 11);
        assert!(shares.take(&"greedy").is_none());
        drop(second);
        // Fewer are free than it holds.
        assert!(shares.take(&"greedy").is_none());
        drop(third);
        drop(greedy);
        assert_eq!(shares.taken(), 0);
        assert_eq!(all(&shares, "second").len(), 6);
    }

    #[test]
    fn several_places_are_shared_as_single_ones_are() {
        let shares = Shares::new(12);
        let (greedy, second) = (shares.holder(&"greedy"), shares.holder(&"second"));
        let held: Vec<_> = std::iter::from_fn(|| greedy.take_many(3)).collect();
        assert_eq!(held.len(), 2);
        assert!(second.take_many(4).is_none());
        let place = second.take_many(3).unwrap();
        assert_eq!(shares.taken(), 9);
        assert!(second.take_many(usize::MAX / 2).is_none());
        drop((held, place));
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn what_is_held_grows_to_half_of_what_is_free_and_is_given_back() {
        let shares = Shares::new(1000);
        let (greedy, other) = (shares.holder(&"greedy"), shares.holder(&"other"));
        let mut held = greedy.nothing();
        assert!(held.grow(300));
        assert!(!greedy.is_short());
        assert!(held.grow(150));
        assert!(greedy.is_short());
        assert!(!held.grow(101));
        assert!(held.grow(50));
        assert!(!held.grow(1));
        // For what was counted before elsewhere.
        held.grow_anyway(100);
        assert_eq!((held.places(), shares.taken()), (600, 600));
        assert!(!other.is_short());
        assert!(other.nothing().grow(200));
        held.shrink(500);
        assert!(!greedy.is_short());
        assert_eq!(shares.taken(), 100);
        drop(held);
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn who_holds_nothing_is_forgotten() {
        let shares = Shares::new(4);
        let place = shares.take(&"a").unwrap();
        let holder = shares.holder(&"a");
        drop(place);
        assert_eq!(shares.0.holders.lock().len(), 1);
        drop(holder);
        assert!(shares.0.holders.lock().is_empty());
    }

    #[test]
    fn threads_take_no_more_than_there_are() {
        let shares = Shares::new(100);
        std::thread::scope(|scope| {
            for key in 0..4 {
                let shares = shares.clone();
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        let held: Vec<_> = (0..60).map(|_| shares.take(&key)).collect();
                        assert!(shares.taken() <= 100);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(shares.taken(), 0);
    }
}
