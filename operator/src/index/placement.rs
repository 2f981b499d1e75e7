//! Which nodes are sent which authorizations: those of the namespaces that have pods there. An edit of one namespace's rules is nothing to nodes
//! without any of its pods.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Index;
use super::state::{Dirty, Update};

/// Authorizations by name, and the nodes that have them.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// Namespace → node → pods of the one on the other.
    nodes: BTreeMap<String, BTreeMap<String, usize>>,
    /// Namespace → its authorizations as ztunnels evaluate them, by full name.
    sent: BTreeMap<String, BTreeMap<String, Bytes>>,
}

impl Placement {
    /// A pod of `namespace` that was on one node (or on none: empty) is on another. What changes by it is marked in `places`.
    pub(super) fn relocate(
        &mut self,
        namespace: &str,
        from: &str,
        to: &str,
        places: &mut BTreeSet<(String, String)>,
    ) {
        if from == to {
            return;
        }
        let nodes = self.nodes.entry(namespace.to_owned()).or_default();
        if let Some(pods) = nodes.get_mut(from) {
            *pods -= 1;
            if *pods == 0 {
                nodes.remove(from);
                places.insert((namespace.to_owned(), from.to_owned()));
            }
        }
        if !to.is_empty() {
            let pods = nodes.entry(to.to_owned()).or_default();
            *pods += 1;
            if *pods == 1 {
                places.insert((namespace.to_owned(), to.to_owned()));
            }
        }
        if nodes.is_empty() {
            self.nodes.remove(namespace);
        }
    }

    fn has(&self, namespace: &str, node: &str) -> bool {
        self.nodes
            .get(namespace)
            .is_some_and(|nodes| nodes.contains_key(node))
    }
}

impl Index {
    /// Says which nodes are sent what of `changes` (authorizations by full name), and what nodes are sent of which a namespace's first pod came
    /// or its last went.
    pub(super) fn place(
        &mut self,
        changes: BTreeMap<String, Option<Vec<u8>>>,
        dirty: &Dirty,
        update: &mut Update,
    ) {
        let placement = &mut self.placement;
        for (name, message) in changes {
            let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
            let message = message.map(Bytes::from);
            let of_namespace = placement.sent.entry(namespace.to_owned()).or_default();
            match &message {
                Some(message) => of_namespace.insert(name.clone(), message.clone()),
                None => of_namespace.remove(&name),
            };
            if of_namespace.is_empty() {
                placement.sent.remove(namespace);
            }
            for node in placement
                .nodes
                .get(namespace)
                .into_iter()
                .flat_map(BTreeMap::keys)
            {
                let of_node = update.authorizations.entry(node.clone()).or_default();
                of_node.insert(name.clone(), message.clone());
            }
            // One that has just lost its last pod has had it.
            let left = dirty
                .places
                .iter()
                .filter(|(of, node)| of == namespace && !placement.has(of, node));
            for (_, node) in left {
                let of_node = update.authorizations.entry(node.clone()).or_default();
                of_node.insert(name.clone(), None);
            }
        }
        for (namespace, node) in &dirty.places {
            let stays = placement.has(namespace, node);
            let Some(authorizations) = placement.sent.get(namespace) else {
                continue;
            };
            let of_node = update.authorizations.entry(node.clone()).or_default();
            for (name, message) in authorizations {
                of_node.insert(name.clone(), stays.then(|| message.clone()));
            }
        }
    }
}
