//! What each waypoint is served, published so that nothing refers to what is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ambit_wire::xds::Collection;

use crate::control::WaypointCollections;
use crate::index::{Key, WaypointResources};

/// The collections of all waypoints.
#[derive(Debug, Default)]
pub(super) struct Waypoints(Mutex<HashMap<Key, Served>>);

#[derive(Debug)]
struct Served {
    collections: WaypointCollections,
    /// Names that are in the collections, in the order of `Served::parts`.
    held: [BTreeSet<String>; 7],
    /// The waypoint is wanted, or has its Service.
    known: bool,
}

impl Default for Served {
    fn default() -> Self {
        let new = || {
            let collection = Collection::new();
            collection.replace([]);
            Arc::new(collection)
        };
        Self {
            collections: WaypointCollections {
                settings: new(),
                services: new(),
                routes: new(),
                backends: new(),
                policies: new(),
                workloads: new(),
                authorizations: new(),
            },
            held: Default::default(),
            known: true,
        }
    }
}

impl Waypoints {
    pub(super) fn get(&self, key: &Key) -> Option<WaypointCollections> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let served = all.get(key).filter(|s| s.known)?;
        Some(served.collections.clone())
    }

    pub(super) fn publish(&self, update: BTreeMap<Key, Option<WaypointResources>>) {
        if update.is_empty() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, resources) in update {
            let served = all.entry(key).or_default();
            served.known = resources.is_some();
            served.put(resources.unwrap_or_default());
        }
        // One that is gone may come back while a reader of the old one is still there.
        all.retain(|_, s| s.known || s.is_read());
    }
}

impl Served {
    /// What is named comes before what names it.
    fn parts(&self) -> [&Arc<Collection>; 7] {
        let c = &self.collections;
        [
            &c.authorizations,
            &c.policies,
            &c.workloads,
            &c.backends,
            &c.routes,
            &c.services,
            &c.settings,
        ]
    }

    fn is_read(&self) -> bool {
        self.parts().into_iter().any(|c| Arc::strong_count(c) > 1)
    }

    /// A service that names a policy or a route, and a workload that names an authorization, close without it. So what is named comes
    /// before, and goes after; and endpoints are there before their service.
    fn put(&mut self, new: WaypointResources) {
        let new = [
            new.authorizations,
            new.policies,
            new.workloads,
            new.backends,
            new.routes,
            new.services,
            new.settings,
        ];
        let names = new.each_ref().map(|part| part.keys().cloned().collect());
        let held = std::mem::replace(&mut self.held, names);
        for (collection, part) in self.parts().into_iter().zip(new) {
            collection.update(part.into_iter().map(|(name, bytes)| (name, Some(bytes))));
        }
        for ((collection, held), kept) in self.parts().into_iter().zip(held).zip(&self.held).rev() {
            let gone = held.into_iter().filter(|name| !kept.contains(name));
            collection.update(gone.map(|name| (name, None)));
        }
    }
}
