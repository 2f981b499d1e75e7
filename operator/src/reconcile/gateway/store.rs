//! Gateways, GatewayClasses and XMeshes as the watches show them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::gateway::{Gateway, GatewayClass, XMesh};
use crate::index::Key;
use crate::reconcile::Objects;

/// Objects of one kind of the cluster, by name; `None`: the cluster does not have the kind.
type Claims<K> = RwLock<Option<BTreeMap<String, Arc<K>>>>;

/// The objects.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct GatewayObjects {
    gateways: RwLock<BTreeMap<Key, Arc<Gateway>>>,
    classes: Claims<GatewayClass>,
    meshes: Claims<XMesh>,
}

/// A kind of the cluster of which a controller claims objects.
pub(in crate::reconcile) trait Stored: Sized + 'static {
    /// Where its objects are.
    fn all(objects: &GatewayObjects) -> &Claims<Self>;
}

impl Stored for GatewayClass {
    fn all(objects: &GatewayObjects) -> &Claims<Self> {
        &objects.classes
    }
}

impl Stored for XMesh {
    fn all(objects: &GatewayObjects) -> &Claims<Self> {
        &objects.meshes
    }
}

impl Objects {
    /// A Gateway.
    pub(in crate::reconcile) fn gateway(&self, key: &Key) -> Option<Arc<Gateway>> {
        let gateways = &self.gateways.gateways;
        let gateways = gateways.read().unwrap_or_else(PoisonError::into_inner);
        gateways.get(key).cloned()
    }

    /// Namespaces that have a Gateway.
    pub(in crate::reconcile) fn gateway_namespaces(&self) -> Vec<String> {
        let gateways = &self.gateways.gateways;
        let gateways = gateways.read().unwrap_or_else(PoisonError::into_inner);
        gateways.keys().map(|key| key.namespace.clone()).collect()
    }

    /// Stores a Gateway; `None`: it is deleted.
    pub(in crate::reconcile) fn set_gateway(&self, key: &Key, gateway: Option<Gateway>) {
        let gateways = &self.gateways.gateways;
        let mut gateways = gateways.write().unwrap_or_else(PoisonError::into_inner);
        match gateway {
            Some(gateway) => gateways.insert(key.clone(), Arc::new(gateway)),
            None => gateways.remove(key),
        };
        drop(gateways);
        self.touch(&key.namespace);
    }

    /// The objects of a kind, by name; `None` if the cluster does not have the kind.
    pub(in crate::reconcile) fn claims<K: Stored>(&self) -> Option<BTreeMap<String, Arc<K>>> {
        let claims = K::all(&self.gateways);
        claims.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores an object of such a kind; `None`: it is deleted.
    pub(in crate::reconcile) fn set_claim<K: Stored>(&self, name: &str, object: Option<K>) {
        let claims = K::all(&self.gateways);
        let mut claims = claims.write().unwrap_or_else(PoisonError::into_inner);
        let all = claims.get_or_insert_default();
        match object {
            Some(object) => all.insert(name.to_owned(), Arc::new(object)),
            None => all.remove(name),
        };
        drop(claims);
        self.notify();
    }

    /// Whether the cluster has the kind.
    pub(in crate::reconcile) fn set_available<K: Stored>(&self, available: bool) {
        let claims = K::all(&self.gateways);
        let mut claims = claims.write().unwrap_or_else(PoisonError::into_inner);
        match available {
            true => _ = claims.get_or_insert_default(),
            false => *claims = None,
        }
        drop(claims);
        self.notify();
    }
}
