mod buckets;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::digest::HeldDigests;
use buckets::Buckets;

/// The number of removals that are remembered. A reader that is further behind starts again.
const REMEMBERED_REMOVALS: usize = 65_536;

/// All resources of one type that one kind of client may see, by name, and ordered by their latest change.
///
/// Readers keep a cursor into that order instead of a copy of the resources of each client, so the cost of a change
/// does not depend on the size of the collection. Each name is in the order once, at its latest change. Versions are
/// hashes of the content, so replicas agree on them.
///
/// A new collection is not ready. Servers send nothing from it, since a client that has resources from before must not
/// receive their removal. [`Collection::replace`] makes it ready.
#[derive(Debug)]
pub struct Collection {
    state: RwLock<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// The number of the latest change.
    sequence: u64,
    resources: HashMap<Arc<str>, Stored>,
    removals: HashMap<Arc<str>, Removal>,
    order: BTreeMap<u64, Arc<str>>,
    removal_order: BTreeMap<u64, Arc<str>>,
    /// Removals up to this change are forgotten.
    forgotten: u64,
    /// Kept from the first comparison on.
    buckets: Option<Buckets>,
}

#[derive(Debug)]
struct Stored {
    sequence: u64,
    version: u64,
    changed: Instant,
    bytes: Bytes,
}

#[derive(Debug)]
struct Removal {
    sequence: u64,
    changed: Instant,
}

/// A resource as a [`Collection`] holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResource {
    /// Its name.
    pub name: Arc<str>,
    /// Hash of its content.
    pub version: u64,
    /// The encoded message.
    pub bytes: Bytes,
}

/// A part of the changes after a cursor, see [`Collection::changes`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or changed resources.
    pub updated: Vec<StoredResource>,
    /// Names of removed resources.
    pub removed: Vec<Arc<str>>,
    /// When the first of these changes after `removals_after` was published.
    pub since: Option<Instant>,
    /// The cursor for the next part.
    pub cursor: u64,
    /// Whether nothing is left after `cursor`. Otherwise there may be resources that changed before `cursor`, and again
    /// after it: they come with a later part.
    pub complete: bool,
}

/// More resources were removed since the reader's cursor than are remembered: start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fell too far behind the changes")]
pub struct FellBehind;

impl Default for Collection {
    fn default() -> Self {
        Self::new()
    }
}

impl Collection {
    /// An empty collection that is not ready.
    pub fn new() -> Self {
        Self {
            state: RwLock::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Replaces the whole content by `resources` (name, encoded message), and makes the collection ready. Equal
    /// resources do not count as changed.
    pub fn replace(&self, resources: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.modify(|state| {
            let mut kept = HashSet::new();
            for (name, bytes) in resources {
                let name: Arc<str> = name.into();
                state.put(Arc::clone(&name), bytes.into());
                kept.insert(name);
            }
            let gone: Vec<_> = state
                .resources
                .keys()
                .filter(|name| !kept.contains(*name))
                .cloned()
                .collect();
            for name in gone {
                state.remove(&name);
            }
            state.ready = true;
        });
    }

    /// Sets (`Some`, the encoded message) or removes (`None`) resources by name, atomically for readers. Equal
    /// resources do not count as changed. Does not make the collection ready.
    pub fn update(&self, changes: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
        let changes = changes.into_iter();
        self.update_shared(changes.map(|(name, bytes)| (name, bytes.map(Bytes::from))));
    }

    /// The same, with messages that several collections share.
    pub fn update_shared(&self, changes: impl IntoIterator<Item = (String, Option<Bytes>)>) {
        self.modify(|state| {
            for (name, bytes) in changes {
                match bytes {
                    Some(bytes) => state.put(name.into(), bytes),
                    None => state.remove(&name),
                }
            }
        });
    }

    /// Marks the content as complete.
    pub fn set_ready(&self) {
        self.modify(|state| state.ready = true);
    }

    /// Whether the content is complete and may be served.
    pub fn is_ready(&self) -> bool {
        self.read().ready
    }

    /// Number of resources.
    pub fn len(&self) -> usize {
        self.read().resources.len()
    }

    /// Whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One resource, and the number of its latest change.
    pub fn get(&self, name: &str) -> Option<(StoredResource, u64)> {
        let state = self.read();
        let (name, stored) = state.resources.get_key_value(name)?;
        Some((stored.resource(name), stored.sequence))
    }

    /// The number of the latest change. A cursor at or past it is up to date.
    pub fn latest(&self) -> u64 {
        self.read().sequence
    }

    /// Notifies after each change, and when the collection becomes ready.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What changed after `cursor`, in order of change, until `more` (given each resource's name and version, and the
    /// number of resources and bytes taken so far) ends the part. Removals are included only when they came after
    /// `removals_after` (a reader that starts at `cursor` 0 has no use for earlier ones).
    ///
    /// `wanted` says which names are of interest with which version; others are passed over.
    pub fn changes(
        &self,
        cursor: u64,
        removals_after: u64,
        wanted: impl Fn(&str, Option<u64>) -> bool,
        limit: PartLimit,
    ) -> Result<Changes, FellBehind> {
        let state = self.read();
        if cursor.max(removals_after) < state.forgotten {
            return Err(FellBehind);
        }
        let mut part = Changes {
            cursor,
            ..Changes::default()
        };
        let mut bytes = 0;
        let later = (Bound::Excluded(cursor), Bound::Unbounded);
        let until = |(sequence, _): &(&u64, _)| **sequence <= limit.end;
        for (&sequence, name) in state.order.range(later).take_while(until) {
            if part.updated.len() + part.removed.len() >= limit.resources || bytes >= limit.bytes {
                return Ok(part);
            }
            part.cursor = sequence;
            let first = part.since.is_none() && sequence > removals_after;
            match state.resources.get(name) {
                Some(stored) if wanted(name, Some(stored.version)) => {
                    bytes += name.len() + stored.bytes.len();
                    if first {
                        part.since = Some(stored.changed);
                    }
                    part.updated.push(stored.resource(name));
                }
                None if sequence > removals_after && wanted(name, None) => {
                    bytes += name.len();
                    if first {
                        part.since = state.removals.get(name).map(|removal| removal.changed);
                    }
                    part.removed.push(Arc::clone(name));
                }
                _ => {}
            }
        }
        part.cursor = state.sequence.min(limit.end).max(cursor);
        part.complete = state.sequence <= part.cursor;
        Ok(part)
    }

    /// The names that are not in the collection, and the number of the latest change at that moment.
    pub fn absent<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> (Vec<String>, u64) {
        let state = self.read();
        let absent = names
            .into_iter()
            .filter(|name| !state.resources.contains_key(*name))
            .map(str::to_owned);
        (absent.collect(), state.sequence)
    }

    /// The buckets in which `held` differs from the collection, and the number of the latest change at that moment.
    pub(super) fn differing(&self, held: &HeldDigests) -> (Vec<u32>, u64) {
        let state = self.read();
        if let Some(buckets) = &state.buckets {
            return (held.differing(buckets.digests()), state.sequence);
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State {
            buckets, resources, ..
        } = &mut *state;
        let buckets = buckets.get_or_insert_with(|| {
            let resources = resources.iter();
            Buckets::of(resources.map(|(name, stored)| (name, stored.version)))
        });
        (held.differing(buckets.digests()), state.sequence)
    }

    /// The names in some buckets, of `buckets` in all.
    pub(super) fn names_in(&self, some: &[u32], buckets: usize) -> Vec<String> {
        let state = self.read();
        let kept = state.buckets.iter();
        let names = kept.flat_map(|kept| kept.names(some, buckets));
        names.map(ToString::to_string).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn modify(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = (state.sequence, state.ready);
        change(&mut state);
        state.forget_old_removals();
        let after = (state.sequence, state.ready);
        drop(state);
        if after != before {
            self.changed.send_replace(after.0);
        }
    }
}

/// The limits of a part of the changes.
#[derive(Debug, Clone, Copy)]
pub struct PartLimit {
    /// The number of resources and removals.
    pub resources: usize,
    /// The bytes of names and content; exceeded by at most one resource.
    pub bytes: usize,
    /// The number of the last change that may be in the part.
    pub end: u64,
}

impl Stored {
    fn resource(&self, name: &Arc<str>) -> StoredResource {
        StoredResource {
            name: Arc::clone(name),
            version: self.version,
            bytes: self.bytes.clone(),
        }
    }
}

impl State {
    fn put(&mut self, name: Arc<str>, bytes: Bytes) {
        let mut before = None;
        if let Some(stored) = self.resources.get(&name) {
            if stored.bytes == bytes {
                return;
            }
            before = Some(stored.version);
            self.order.remove(&stored.sequence);
        }
        let version = version(&bytes);
        if let Some(buckets) = &mut self.buckets {
            buckets.set(&name, before, Some(version));
        }
        if let Some(removed) = self.removals.remove(&name) {
            self.order.remove(&removed.sequence);
            self.removal_order.remove(&removed.sequence);
        }
        self.sequence += 1;
        self.order.insert(self.sequence, Arc::clone(&name));
        self.resources.insert(
            name,
            Stored {
                sequence: self.sequence,
                changed: Instant::now(),
                version,
                bytes,
            },
        );
    }

    fn remove(&mut self, name: &str) {
        let Some((name, stored)) = self.resources.remove_entry(name) else {
            return;
        };
        if let Some(buckets) = &mut self.buckets {
            buckets.set(&name, Some(stored.version), None);
        }
        self.order.remove(&stored.sequence);
        self.sequence += 1;
        self.order.insert(self.sequence, Arc::clone(&name));
        self.removal_order.insert(self.sequence, Arc::clone(&name));
        let removal = Removal {
            sequence: self.sequence,
            changed: Instant::now(),
        };
        self.removals.insert(name, removal);
    }

    fn forget_old_removals(&mut self) {
        while self.removal_order.len() > REMEMBERED_REMOVALS {
            let Some((sequence, name)) = self.removal_order.pop_first() else {
                return;
            };
            self.order.remove(&sequence);
            self.removals.remove(&name);
            self.forgotten = sequence;
        }
    }
}

/// A hash that is the same in every replica and build.
fn version(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(bytes).into();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
