//! The index as the rest of the operator shares it: one writer, and the collections that the control plane serves.

mod authorizations;
mod timers;
mod waypoints;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ambit_wire::xds::Collection;
use tokio::sync::watch;

use authorizations::{Authorizations, split};
use timers::Timers;
use waypoints::Waypoints;

use super::{Config, Index, Key, PodRecord, Update, build};
use crate::control::{Directory, MeshSettings, PodInfo, Sources, WaypointCollections};

/// An [`Index`] and what came of it.
#[derive(Debug)]
pub struct SharedIndex {
    index: RwLock<Index>,
    ready: AtomicBool,
    addresses: Arc<Collection>,
    authorizations: Authorizations,
    enrolled: Arc<Collection>,
    node_config: Arc<Collection>,
    captures: Mutex<HashMap<String, Arc<Collection>>>,
    waypoints: Waypoints,
    timers: Timers,
    /// Namespaces whose status may have changed.
    touched: Mutex<BTreeSet<String>>,
    changed: watch::Sender<u64>,
}

impl SharedIndex {
    /// Empty, and not ready: nothing is served from it yet.
    pub fn new(config: Config) -> Self {
        Self {
            index: RwLock::new(Index::new(config)),
            ready: AtomicBool::new(false),
            addresses: Arc::default(),
            authorizations: Authorizations::default(),
            enrolled: Arc::default(),
            node_config: Arc::default(),
            captures: Mutex::default(),
            waypoints: Waypoints::default(),
            timers: Timers::default(),
            touched: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Changes the index, and what is served with it once it is ready.
    pub fn change(&self, change: impl FnOnce(&mut Index)) {
        // Held to the end: what is published keeps the order of the changes.
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut index);
        if self.ready.load(Ordering::Acquire) {
            let update = index.flush();
            self.publish(update);
        }
    }

    /// All that is in the cluster has been read once: from now on it is served.
    pub fn set_ready(&self) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if self.ready.load(Ordering::Acquire) {
            return;
        }
        let update = index.flush();
        self.authorizations.publish_everywhere(update.everywhere);
        self.authorizations.publish(update.authorizations);
        self.authorizations.set_ready();
        self.addresses.replace(present(update.addresses));
        self.enrolled.replace(present(update.enrolled));
        self.node_config
            .replace(update.node_config.map(|c| (NODE.to_owned(), c)));
        self.waypoints.publish(update.waypoints);
        self.timers.start(update.timers);
        let mut captures = self.lock_captures();
        for (node, pods) in update.captures {
            captures.entry(node).or_default().replace(present(pods));
        }
        captures
            .values()
            .filter(|c| !c.is_ready())
            .for_each(|c| c.replace([]));
        // Under the lock of the captures: a collection made from here on is made ready at once.
        self.ready.store(true, Ordering::Release);
        drop(captures);
        self.touch(update.namespaces);
    }

    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notified after each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Namespaces that changed since the last call.
    pub fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn touch(&self, namespaces: BTreeSet<String>) {
        self.touched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(namespaces);
        self.changed.send_modify(|n| *n += 1);
    }

    fn publish(&self, update: Update) {
        // A workload that names an authorization which the proxy has not got is closed, so: new authorizations, then workloads,
        // then authorizations that are gone.
        let (set, gone) = split(update.authorizations);
        self.authorizations.publish_everywhere(update.everywhere);
        self.authorizations.publish(set);
        // A waypoint knows what is about to be reached through it.
        self.waypoints.publish(update.waypoints);
        self.addresses.update(update.addresses);
        self.authorizations.publish(gone);
        self.timers.start(update.timers);
        self.enrolled.update(update.enrolled);
        self.node_config
            .update(update.node_config.map(|c| (NODE.to_owned(), Some(c))));
        let mut captures = self.lock_captures();
        let known = captures.len();
        for (node, pods) in update.captures {
            let collection = captures.entry(node).or_insert_with(ready_collection);
            collection.update(pods);
        }
        // Nodes that are gone, unless somebody reads still. Nodes go where others come: not looked for at each change.
        if captures.len() > known {
            captures.retain(|_, c| !c.is_empty() || Arc::strong_count(c) > 1);
        }
        drop(captures);
        if !update.namespaces.is_empty() {
            self.touch(update.namespaces);
        }
    }

    fn lock_captures(&self) -> MutexGuard<'_, HashMap<String, Arc<Collection>>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name of the one node configuration.
const NODE: &str = "node";

fn ready_collection() -> Arc<Collection> {
    let collection = Collection::new();
    collection.replace([]);
    Arc::new(collection)
}

fn present(messages: BTreeMap<String, Option<Vec<u8>>>) -> impl Iterator<Item = (String, Vec<u8>)> {
    messages
        .into_iter()
        .filter_map(|(name, message)| Some((name, message?)))
}

impl Sources for SharedIndex {
    fn addresses(&self) -> Arc<Collection> {
        Arc::clone(&self.addresses)
    }

    fn authorizations(&self, node: &str) -> Arc<Collection> {
        self.authorizations.of(node)
    }

    fn pod_captures(&self, node: &str) -> Arc<Collection> {
        let mut captures = self.lock_captures();
        let ready = self.ready.load(Ordering::Acquire);
        let make = || if ready { ready_collection() } else { Arc::default() };
        Arc::clone(captures.entry(node.to_owned()).or_insert_with(make))
    }

    fn enrolled_namespaces(&self) -> Arc<Collection> {
        Arc::clone(&self.enrolled)
    }

    fn node_config(&self, _node: &str) -> Arc<Collection> {
        Arc::clone(&self.node_config)
    }

    fn waypoint(&self, namespace: &str, name: &str) -> Option<WaypointCollections> {
        self.waypoints.get(&Key::new(namespace, name))
    }
}

impl Directory for SharedIndex {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn pod(&self, uid: &str) -> Option<PodInfo> {
        self.read(|index| index.pod(uid).map(|(key, pod)| info(index, key, pod)))
    }

    fn enrolled_pod(&self, node: &str, namespace: &str, service_account: &str) -> Option<PodInfo> {
        self.read(|index| {
            let enrolled = index.is_enrolled(namespace);
            let mut pods = index.pods_on(node);
            let found = pods.find(|(key, pod)| {
                key.namespace == namespace
                    && pod.service_account == service_account
                    && build::wanted(enrolled, pod)
            });
            found.map(|(key, pod)| info(index, key, pod))
        })
    }

    fn mesh(&self) -> MeshSettings {
        let mesh = self.read(|index| index.mesh.clone()).unwrap_or_default();
        MeshSettings {
            trust_domain: mesh.trust_domain,
            leaf_ttl: mesh.leaf_ttl,
        }
    }
}

fn info(index: &Index, key: &Key, pod: &PodRecord) -> PodInfo {
    let waypoint = index
        .replica_of(key, pod)
        .filter(|name| index.has_waypoint(&key.namespace, name));
    PodInfo {
        uid: pod.uid.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        host_network: pod.host_network,
        enrolled: build::wanted(index.is_enrolled(&key.namespace), pod),
        service_account_uid: waypoint.and_then(|name| {
            let registered = index.registered(&key.sibling(name));
            registered.and_then(|r| r.service_account.clone())
        }),
        waypoint: waypoint.map(str::to_owned),
    }
}
