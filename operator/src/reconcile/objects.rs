//! Objects that the writers need whole, as last seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ambit_crds::{AmbientNamespace, Mesh};
use k8s_openapi::api::apps::v1::DaemonSet;
use tokio::sync::watch;

/// The Mesh, the AmbientNamespaces by namespace, and the data plane's DaemonSets by name, as last seen.
#[derive(Debug, Default)]
pub struct Objects {
    mesh: RwLock<Option<Arc<Mesh>>>,
    ambient: RwLock<BTreeMap<String, Arc<AmbientNamespace>>>,
    daemon_sets: RwLock<BTreeMap<String, Arc<DaemonSet>>>,
    /// Namespaces whose AmbientNamespace changed.
    touched: Mutex<BTreeSet<String>>,
    changed: watch::Sender<u64>,
}

impl Objects {
    /// The Mesh.
    pub fn mesh(&self) -> Option<Arc<Mesh>> {
        self.mesh.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A namespace's AmbientNamespace.
    pub fn ambient(&self, namespace: &str) -> Option<Arc<AmbientNamespace>> {
        self.ambient
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(namespace)
            .cloned()
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

    /// A DaemonSet of the data plane.
    pub fn daemon_set(&self, name: &str) -> Option<Arc<DaemonSet>> {
        self.daemon_sets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Notified after each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Namespaces whose AmbientNamespace changed since the last call.
    pub fn take_touched(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_mesh(&self, mesh: Option<Mesh>) {
        *self.mesh.write().unwrap_or_else(PoisonError::into_inner) = mesh.map(Arc::new);
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn set_ambient(&self, namespace: &str, object: Option<AmbientNamespace>) {
        set(&self.ambient, namespace, object);
        self.touched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(namespace.to_owned());
        self.changed.send_modify(|n| *n += 1);
    }

    pub(super) fn set_daemon_set(&self, name: &str, object: Option<DaemonSet>) {
        set(&self.daemon_sets, name, object);
        self.changed.send_modify(|n| *n += 1);
    }
}

fn set<T>(map: &RwLock<BTreeMap<String, Arc<T>>>, key: &str, value: Option<T>) {
    let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
    match value {
        Some(value) => map.insert(key.to_owned(), Arc::new(value)),
        None => map.remove(key),
    };
}
