//! Values by address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// Values by address (or by address and port). If several claim an address, the last one has it; when that is removed,
/// the one before has it again.
#[derive(Debug)]
pub(crate) struct AddressTable<T, A = IpAddr>(HashMap<A, Holders<T>>);

#[derive(Debug)]
struct Holders<T> {
    current: Arc<T>,
    /// The others that claim it, the latest last. Usually empty.
    earlier: Vec<Arc<T>>,
}

impl<T, A> Default for AddressTable<T, A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T, A: Hash + Eq> AddressTable<T, A> {
    pub(crate) fn get(&self, address: A) -> Option<&Arc<T>> {
        self.0.get(&address).map(|holders| &holders.current)
    }

    /// Gives `one` the address. `old` is its version until now: if that has the address, or is among the others, `one`
    /// replaces it.
    pub(crate) fn claim(&mut self, address: A, one: &Arc<T>, old: Option<&Arc<T>>) {
        let Some(holders) = self.0.get_mut(&address) else {
            let holders = Holders {
                current: Arc::clone(one),
                earlier: Vec::new(),
            };
            self.0.insert(address, holders);
            return;
        };
        let old = old.unwrap_or(one);
        if Arc::ptr_eq(&holders.current, old) {
            holders.current = Arc::clone(one);
        } else if let Some(waiting) = holders.earlier.iter_mut().find(|other| Arc::ptr_eq(other, old)) {
            *waiting = Arc::clone(one);
        } else {
            let before = std::mem::replace(&mut holders.current, Arc::clone(one));
            holders.earlier.push(before);
        }
    }

    /// Removes the claim of `one` to the address.
    pub(crate) fn release(&mut self, address: A, one: &Arc<T>) {
        let Some(holders) = self.0.get_mut(&address) else {
            return;
        };
        if !Arc::ptr_eq(&holders.current, one) {
            holders.earlier.retain(|other| !Arc::ptr_eq(other, one));
        } else if let Some(before) = holders.earlier.pop() {
            holders.current = before;
        } else {
            self.0.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn update_of_an_earlier_claim_changes_nothing() {
        let mut table = AddressTable::default();
        let (old, new) = (Arc::new("old"), Arc::new("new"));
        table.claim(ADDRESS, &old, None);
        table.claim(ADDRESS, &new, None);
        let updated = Arc::new("updated");
        table.claim(ADDRESS, &updated, Some(&old));
        assert_eq!(table.get(ADDRESS), Some(&new));
        table.release(ADDRESS, &new);
        assert_eq!(table.get(ADDRESS), Some(&updated));
        table.release(ADDRESS, &updated);
        assert_eq!(table.get(ADDRESS), None);
    }

    #[test]
    fn removed_claim_leaves_address_with_the_last() {
        let mut table = AddressTable::default();
        let (old, new) = (Arc::new("old"), Arc::new("new"));
        table.claim(ADDRESS, &old, None);
        table.claim(ADDRESS, &new, None);
        table.release(ADDRESS, &old);
        assert_eq!(table.get(ADDRESS), Some(&new));
        table.release(ADDRESS, &new);
        assert_eq!(table.get(ADDRESS), None);
    }
}
