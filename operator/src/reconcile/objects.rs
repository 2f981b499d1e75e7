//! Objects that the writers need whole, as the watches show them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy};
use ambit_wire::names;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use tokio::sync::watch;

use super::apply::Owned;
use super::gateway::GatewayObjects;
use super::pods::OwnPod;
use super::route::RouteObject;
use crate::index::{Key, Registered, RouteId, within};

/// The part of a live object that decides whether it has to be applied again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// `metadata.uid`.
    pub(super) uid: Option<String>,
    /// Hash of the desired state from which it was applied.
    pub(super) hash: Option<String>,
    /// Its fields that still have the operator's values.
    pub(super) owned: Owned,
    /// `metadata.generation`, or the resource version if the kind has none: it grows with every write.
    pub(super) version: Option<i64>,
    /// It has the operator's label.
    pub(super) ours: bool,
}

/// The desired state that a user has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edited {
    /// The Mesh has another generation, or is being deleted, or is deleted.
    pub(super) mesh: bool,
    /// An AmbientNamespace or a WaypointPolicy in these namespaces has another generation, or is deleted.
    pub(super) namespaces: BTreeSet<String>,
}

/// The Mesh, the AmbientNamespaces by namespace, policies, and the objects that the operator has applied.
#[derive(Debug, Default)]
pub struct Objects {
    mesh: RwLock<Option<Arc<Mesh>>>,
    ambient: RwLock<BTreeMap<String, Arc<AmbientNamespace>>>,
    policies: RwLock<BTreeMap<Key, Arc<WaypointPolicy>>>,
    routes: RwLock<BTreeMap<RouteId, Arc<RouteObject>>>,
    pub(super) gateways: GatewayObjects,
    daemon_sets: RwLock<BTreeMap<String, Arc<DaemonSet>>>,
    /// Deployments of waypoints.
    deployments: RwLock<BTreeMap<Key, Arc<Deployment>>>,
    /// Pods with Ambit's label.
    pods: RwLock<BTreeMap<Key, Arc<OwnPod>>>,
    /// Whether each node is Ready.
    nodes: RwLock<BTreeMap<String, bool>>,
    /// Namespaces that are being deleted.
    terminating: RwLock<BTreeSet<String>>,
    /// The register of waypoints.
    register: RwLock<BTreeMap<Key, Arc<Registered>>>,
    /// By kind.
    applied: RwLock<BTreeMap<String, BTreeMap<Key, Arc<Live>>>>,
    /// Namespaces in which one of these has changed.
    touched: Mutex<BTreeSet<String>>,
    /// Changes of the desired state by users.
    edited: Mutex<Edited>,
    changed: watch::Sender<u64>,
}

impl Objects {
    /// The Mesh.
    pub fn mesh(&self) -> Option<Arc<Mesh>> {
        self.mesh.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A namespace's AmbientNamespace.
    pub fn ambient(&self, namespace: &str) -> Option<Arc<AmbientNamespace>> {
        get(&self.ambient, namespace)
    }

    /// Namespaces that have an AmbientNamespace.
    pub fn ambient_namespaces(&self) -> Vec<String> {
        self.ambient
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// A namespace's WaypointPolicies.
    pub fn policies(&self, namespace: &str) -> Vec<Arc<WaypointPolicy>> {
        let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
        within(&policies, namespace)
            .map(|(_, policy)| Arc::clone(policy))
            .collect()
    }

    /// A route.
    pub(super) fn route(&self, id: &RouteId) -> Option<Arc<RouteObject>> {
        get(&self.routes, id)
    }

    /// Namespaces that have a route.
    pub(super) fn route_namespaces(&self) -> BTreeSet<String> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.keys().map(|id| id.key.namespace.clone()).collect()
    }

    /// Stores a route; `None`: it is deleted.
    pub(super) fn set_route(&self, id: &RouteId, route: Option<RouteObject>) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        match route {
            Some(route) => routes.insert(id.clone(), Arc::new(route)),
            None => routes.remove(id),
        };
        drop(routes);
        self.touch(&id.key.namespace);
    }

    /// A DaemonSet of the data plane.
    pub fn daemon_set(&self, name: &str) -> Option<Arc<DaemonSet>> {
        get(&self.daemon_sets, name)
    }

    /// A waypoint's Deployment.
    pub fn deployment(&self, waypoint: &Key) -> Option<Arc<Deployment>> {
        get(&self.deployments, waypoint)
    }

    /// The pods of one namespace with Ambit's label, by name.
    pub(super) fn own_pods(&self, namespace: &str) -> Vec<(String, Arc<OwnPod>)> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        within(&pods, namespace)
            .map(|(key, pod)| (key.name.clone(), Arc::clone(pod)))
            .collect()
    }

    /// Name and address of the pods of the control plane in `namespace`, the operator's own.
    pub(super) fn serving_pods(&self, namespace: &str) -> Vec<(String, IpAddr)> {
        let pods = self.own_pods(namespace).into_iter();
        let serving = pods.filter(|(_, pod)| pod.component == names::CONTROL && pod.running);
        serving
            .filter_map(|(name, pod)| Some((name, pod.address?)))
            .collect()
    }

    /// A pod with Ambit's label.
    pub(super) fn own_pod(&self, key: &Key) -> Option<Arc<OwnPod>> {
        get(&self.pods, key)
    }

    /// Whether each node is Ready, by name.
    pub(super) fn nodes(&self) -> BTreeMap<String, bool> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a namespace is being deleted.
    pub(super) fn is_terminating(&self, namespace: &str) -> bool {
        let terminating = self.terminating.read().unwrap_or_else(PoisonError::into_inner);
        terminating.contains(namespace)
    }

    /// All objects of these kinds that the operator has applied: in `own`, its namespace, those with its label;
    /// elsewhere those in the register, and for kinds that are not registered those with the label.
    pub(super) fn all_applied(&self, own: &str, kinds: &[&str]) -> Vec<(String, Key, Live)> {
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        let of = |kind: &&str| applied.get(*kind).map(|objects| (kind.to_string(), objects));
        let all = kinds.iter().filter_map(of).flat_map(|(kind, objects)| {
            objects
                .iter()
                .map(move |(key, live)| (kind.clone(), key.clone(), Live::clone(live)))
        });
        let register = self.register.read().unwrap_or_else(PoisonError::into_inner);
        let proven = |kind: &str, key: &Key, live: &Live| {
            let recorded = register.get(key).and_then(|entry| entry.uid(kind));
            key.namespace == own
                || !Registered::KINDS.contains(&kind)
                || recorded.is_some() && recorded == live.uid.as_ref()
        };
        all.filter(|(kind, key, live)| live.ours && proven(kind, key, live))
            .collect()
    }

    /// A waypoint's entry in the register.
    pub(super) fn registered(&self, waypoint: &Key) -> Option<Registered> {
        get(&self.register, waypoint).map(|entry| Registered::clone(&entry))
    }

    /// Number of waypoints in the register.
    pub(super) fn registered_count(&self) -> usize {
        self.register.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Namespaces with waypoints in the register.
    pub(super) fn registered_namespaces(&self) -> BTreeSet<String> {
        let register = self.register.read().unwrap_or_else(PoisonError::into_inner);
        register.keys().map(|key| key.namespace.clone()).collect()
    }

    /// The register of a namespace's waypoints, by name.
    pub(super) fn set_register(&self, namespace: &str, entries: &BTreeMap<String, Registered>) {
        let mut register = self.register.write().unwrap_or_else(PoisonError::into_inner);
        register.retain(|key, _| key.namespace != namespace);
        for (name, entry) in entries {
            register.insert(Key::new(namespace, name.clone()), Arc::new(entry.clone()));
        }
        drop(register);
        self.touch(namespace);
    }

    /// The live state of an object that the operator has applied.
    pub fn live(&self, kind: &str, namespace: &str, name: &str) -> Option<Live> {
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        let live = applied.get(kind)?.get(&Key::new(namespace, name))?;
        Some(Live::clone(live))
    }

    /// Names of the objects of these kinds that the operator has applied in a namespace.
    pub(super) fn applied_in(&self, namespace: &str, kinds: &[&str]) -> BTreeSet<String> {
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        let of_kinds = kinds.iter().filter_map(|kind| applied.get(*kind));
        of_kinds
            .flat_map(|objects| within(objects, namespace))
            .map(|(key, _)| key.name.clone())
            .collect()
    }

    /// Namespaces in which the operator has applied objects of these kinds, or in which there are policies.
    pub(super) fn with_policies_or(&self, kinds: &[&str]) -> BTreeSet<String> {
        let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
        let applied = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        let of_kinds = kinds.iter().filter_map(|kind| applied.get(*kind));
        policies
            .keys()
            .chain(of_kinds.flat_map(BTreeMap::keys))
            .map(|key| key.namespace.clone())
            .collect()
    }

    /// Notified after each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Namespaces in which something changed since the last call.
    pub fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes of the desired state since the last call.
    pub(super) fn take_edited(&self) -> Edited {
        std::mem::take(&mut *self.lock_edited())
    }

    fn lock_edited(&self) -> MutexGuard<'_, Edited> {
        self.edited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mesh(&self, mesh: Option<Mesh>) {
        let generation = |m: &Mesh| (m.metadata.generation, m.metadata.deletion_timestamp.clone());
        let now = mesh.as_ref().map(generation);
        let before = {
            let mut held = self.mesh.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, mesh.map(Arc::new))
        };
        if before.as_deref().map(generation) != now {
            self.lock_edited().mesh = true;
        }
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn set_ambient(&self, namespace: &str, object: Option<AmbientNamespace>) {
        let generation = object.as_ref().map(|o| o.metadata.generation);
        let before = set(&self.ambient, namespace.to_owned(), object);
        if before.map(|o| o.metadata.generation) != generation {
            self.lock_edited().namespaces.insert(namespace.to_owned());
        }
        self.touch(namespace);
    }

    pub(super) fn set_policy(&self, key: &Key, object: Option<WaypointPolicy>) {
        let generation = object.as_ref().map(|o| o.metadata.generation);
        let before = set(&self.policies, key.clone(), object);
        if before.map(|o| o.metadata.generation) != generation {
            self.lock_edited().namespaces.insert(key.namespace.clone());
        }
        self.touch(&key.namespace);
    }

    pub(super) fn set_daemon_set(&self, key: &Key, object: Option<DaemonSet>) {
        let live = object.as_ref().map(|o| Live::of(&o.metadata));
        set(&self.daemon_sets, key.name.clone(), object);
        self.set_live("DaemonSet", key, live);
    }

    pub(super) fn set_deployment(&self, key: &Key, object: Option<Deployment>) {
        let live = object.as_ref().map(|o| Live::of(&o.metadata));
        set(&self.deployments, key.clone(), object);
        self.set_live("Deployment", key, live);
    }

    pub(super) fn set_own_pod(&self, key: &Key, pod: Option<OwnPod>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        if pods.get(key).map(|p| &**p) == pod.as_ref() {
            return;
        }
        match pod {
            Some(pod) => pods.insert(key.clone(), Arc::new(pod)),
            None => pods.remove(key),
        };
        drop(pods);
        self.touch(&key.namespace);
    }

    /// A node, and whether it is Ready; `None` when it is deleted.
    pub(super) fn set_node(&self, name: &str, ready: Option<bool>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let before = match ready {
            Some(ready) => nodes.insert(name.to_owned(), ready),
            None => nodes.remove(name),
        };
        drop(nodes);
        if before != ready {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    pub(super) fn set_terminating(&self, namespace: &str, terminating: bool) {
        let mut all = self.terminating.write().unwrap_or_else(PoisonError::into_inner);
        let changed = if terminating {
            all.insert(namespace.to_owned())
        } else {
            all.remove(namespace)
        };
        drop(all);
        if changed {
            self.touch(namespace);
        }
    }

    pub(super) fn set_live(&self, kind: &str, key: &Key, live: Option<Live>) {
        let mut applied = self.applied.write().unwrap_or_else(PoisonError::into_inner);
        let objects = applied.entry(kind.to_owned()).or_default();
        let before = match live {
            Some(live) => objects.insert(key.clone(), Arc::new(live)).is_some(),
            None => objects.remove(key).is_some(),
        };
        let there = objects.contains_key(key);
        drop(applied);
        if before || there {
            self.touch(&key.namespace);
        }
    }

    pub(super) fn touch(&self, namespace: &str) {
        self.touched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(namespace.to_owned());
        self.notify();
    }

    /// Something changed.
    pub(super) fn notify(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

fn get<Q: Ord + ?Sized, K: Ord + std::borrow::Borrow<Q>, T>(
    map: &RwLock<BTreeMap<K, Arc<T>>>,
    key: &Q,
) -> Option<Arc<T>> {
    map.read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(key)
        .cloned()
}

/// The value before.
fn set<K: Ord, T>(map: &RwLock<BTreeMap<K, Arc<T>>>, key: K, value: Option<T>) -> Option<Arc<T>> {
    let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
    match value {
        Some(value) => map.insert(key, Arc::new(value)),
        None => map.remove(&key),
    }
}
