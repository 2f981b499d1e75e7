//! The authorizations of each node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_wire::xds::Collection;
use bytes::Bytes;

/// Changes by name.
type Part = BTreeMap<String, Option<Bytes>>;

/// Collections by node.
#[derive(Debug, Default)]
pub(super) struct Authorizations(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// What every node is sent.
    everywhere: BTreeMap<String, Bytes>,
    nodes: HashMap<String, Arc<Collection>>,
}

impl State {
    fn node(&mut self, node: &str) -> &Arc<Collection> {
        let Self {
            ready,
            everywhere,
            nodes,
        } = self;
        nodes.entry(node.to_owned()).or_insert_with(|| {
            let collection = Collection::new();
            collection.update_shared(everywhere.iter().map(|(name, m)| (name.clone(), Some(m.clone()))));
            if *ready {
                collection.set_ready();
            }
            Arc::new(collection)
        })
    }
}

impl Authorizations {
    pub(super) fn of(&self, node: &str) -> Arc<Collection> {
        Arc::clone(self.lock().node(node))
    }

    /// What is there so far is all: it may be served.
    pub(super) fn set_ready(&self) {
        let mut state = self.lock();
        state.ready = true;
        state.nodes.values().for_each(|collection| collection.set_ready());
    }

    /// For every node, those that are not known yet too.
    pub(super) fn publish_everywhere(&self, update: BTreeMap<String, Option<Vec<u8>>>) {
        if update.is_empty() {
            return;
        }
        let update: Part = update
            .into_iter()
            .map(|(name, message)| (name, message.map(Bytes::from)))
            .collect();
        let mut state = self.lock();
        for (name, message) in &update {
            match message {
                Some(message) => state.everywhere.insert(name.clone(), message.clone()),
                None => state.everywhere.remove(name),
            };
        }
        for collection in state.nodes.values() {
            collection.update_shared(update.clone());
        }
    }

    /// By node.
    pub(super) fn publish(&self, update: BTreeMap<String, Part>) {
        if update.is_empty() {
            return;
        }
        let mut state = self.lock();
        for (node, part) in update {
            state.node(&node).update_shared(part);
        }
        // Nodes that have nothing of their own any more, unless somebody reads still.
        let least = state.everywhere.len();
        state
            .nodes
            .retain(|_, c| c.len() > least || Arc::strong_count(c) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is new or changed, and what is gone.
pub(super) fn split(update: BTreeMap<String, Part>) -> (BTreeMap<String, Part>, BTreeMap<String, Part>) {
    let (mut set, mut gone) = (BTreeMap::new(), BTreeMap::new());
    for (node, part) in update {
        let (new, old): (Part, Part) = part.into_iter().partition(|(_, message)| message.is_some());
        if !new.is_empty() {
            set.insert(node.clone(), new);
        }
        if !old.is_empty() {
            gone.insert(node, old);
        }
    }
    (set, gone)
}
