//! The effect of each kind on the index and on the writers.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy, labels};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::de::DeserializeOwned;

use super::{Change, Watched};
use crate::gateway::{Gateway, GatewayClass, ReferenceGrant, Route, RouteKind, XMesh};
use crate::index::{
    AmbientRecord, GatewayRecord, Key, MeshRecord, PodRecord, PolicyRecord, ReplicaSetRecord, RouteId,
    RouteRecord, ServiceRecord, SliceRecord,
};
use crate::reconcile::pods::OwnPod;
use crate::reconcile::route::RouteObject;
use crate::reconcile::{Live, Objects, register};

impl Watched for Mesh {
    fn index(&self, key: &Key) -> Change {
        let record = (key.name == labels::MESH).then(|| MeshRecord::of(self));
        Box::new(|index| {
            if let Some(record) = record {
                index.set_mesh(Some(record));
            }
        })
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| {
            if key.name == labels::MESH {
                index.set_mesh(None);
            }
        })
    }

    fn store(self, key: &Key, objects: &Objects) {
        if key.name == labels::MESH {
            objects.set_mesh(Some(self));
        }
    }

    fn forget(key: &Key, objects: &Objects) {
        if key.name == labels::MESH {
            objects.set_mesh(None);
        }
    }
}

impl Watched for Namespace {
    fn index(&self, key: &Key) -> Change {
        let (name, namespace) = (key.name.clone(), self.clone());
        Box::new(move |index| index.apply_namespace(&name, &namespace))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_namespace(&key.name, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_terminating(&key.name, self.metadata.deletion_timestamp.is_some());
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_terminating(&key.name, false);
    }
}

impl Watched for AmbientNamespace {
    fn index(&self, key: &Key) -> Change {
        let namespace = key.namespace.clone();
        let record = (key.name == labels::AMBIENT_NAMESPACE).then(|| AmbientRecord::of(self));
        // The writer's own status counts as a change, too: it compares, and writes nothing.
        Box::new(move |index| {
            if let Some(record) = record {
                index.set_ambient(&namespace, Some(record));
            }
        })
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| {
            if key.name == labels::AMBIENT_NAMESPACE {
                index.set_ambient(&key.namespace, None);
            }
        })
    }

    fn store(self, key: &Key, objects: &Objects) {
        if key.name == labels::AMBIENT_NAMESPACE {
            objects.set_ambient(&key.namespace, Some(self));
        }
    }

    fn forget(key: &Key, objects: &Objects) {
        if key.name == labels::AMBIENT_NAMESPACE {
            objects.set_ambient(&key.namespace, None);
        }
    }
}

impl Watched for WaypointPolicy {
    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), PolicyRecord::of(self));
        Box::new(move |index| index.set_policy(&key, Some(record)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_policy(&key, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_policy(key, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_policy(key, None);
    }
}

impl<K: RouteKind> Watched for Route<K> {
    const OPTIONAL: bool = true;

    fn index(&self, key: &Key) -> Change {
        let (id, record) = (RouteId::new::<K>(key), RouteRecord::of(self));
        Box::new(move |index| index.set_route(&id, Some(record)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_route(&RouteId::new::<K>(&key), None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_route(&RouteId::new::<K>(key), Some(RouteObject::of(self)));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_route(&RouteId::new::<K>(key), None);
    }
}

impl Watched for ReferenceGrant {
    const OPTIONAL: bool = true;

    fn index(&self, key: &Key) -> Change {
        let (key, spec) = (key.clone(), self.spec.clone());
        Box::new(move |index| index.set_grant(&key, Some(spec)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_grant(&key, None))
    }
}

impl Watched for Gateway {
    const OPTIONAL: bool = true;

    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), GatewayRecord::of(self));
        Box::new(move |index| index.set_gateway(&key, Some(record)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_gateway(&key, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_gateway(key, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_gateway(key, None);
    }
}

impl Watched for GatewayClass {
    const OPTIONAL: bool = true;

    fn index(&self, key: &Key) -> Change {
        let (name, controller) = (key.name.clone(), self.spec.controller_name.clone());
        Box::new(move |index| index.set_gateway_class(&name, Some(controller)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_gateway_class(&key.name, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_claim(&key.name, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_claim::<Self>(&key.name, None);
    }

    fn available(available: bool, objects: &Objects) {
        objects.set_available::<Self>(available);
    }
}

impl Watched for XMesh {
    const OPTIONAL: bool = true;

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_claim(&key.name, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_claim::<Self>(&key.name, None);
    }

    fn available(available: bool, objects: &Objects) {
        objects.set_available::<Self>(available);
    }
}

impl Watched for Service {
    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), ServiceRecord::of(self));
        Box::new(move |index| index.set_service(&key, record))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_service(&key, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        let live = Live::of(&self.metadata);
        objects.set_live("Service", key, live.ours.then_some(live));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_live("Service", key, None);
    }
}

impl Watched for EndpointSlice {
    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), SliceRecord::of(self));
        Box::new(move |index| index.set_slice(&key, record))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_slice(&key, None))
    }
}

impl Watched for Pod {
    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), PodRecord::of(self));
        Box::new(move |index| index.set_pod(&key, record))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_pod(&key, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        objects.set_own_pod(key, OwnPod::of(&self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_own_pod(key, None);
    }
}

impl Watched for Node {
    fn index(&self, key: &Key) -> Change {
        let (name, node) = (key.name.clone(), self.clone());
        Box::new(move |index| index.set_node(&name, Some(&node)))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_node(&key.name, None))
    }

    fn store(self, key: &Key, objects: &Objects) {
        let conditions = self.status.and_then(|s| s.conditions);
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        objects.set_node(&key.name, Some(ready));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_node(&key.name, None);
    }
}

impl Watched for DaemonSet {
    fn store(self, key: &Key, objects: &Objects) {
        objects.set_daemon_set(key, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_daemon_set(key, None);
    }
}

impl Watched for Deployment {
    fn store(self, key: &Key, objects: &Objects) {
        objects.set_deployment(key, Some(self));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_deployment(key, None);
    }
}

impl Watched for ReplicaSet {
    fn index(&self, key: &Key) -> Change {
        let (key, record) = (key.clone(), ReplicaSetRecord::of(self));
        Box::new(move |index| index.set_replica_set(&key, record))
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| index.set_replica_set(&key, None))
    }
}

/// The register of waypoints, in the operator's own namespace.
impl Watched for ConfigMap {
    fn index(&self, key: &Key) -> Change {
        let subject = register::subject(&key.name).map(str::to_owned);
        let entries = register::entries(self);
        Box::new(move |index| {
            if let Some(namespace) = subject {
                index.set_register(&namespace, entries);
            }
        })
    }

    fn unindex(key: Key) -> Change {
        Box::new(move |index| {
            if let Some(namespace) = register::subject(&key.name) {
                index.set_register(namespace, BTreeMap::new());
            }
        })
    }

    fn store(self, key: &Key, objects: &Objects) {
        if let Some(namespace) = register::subject(&key.name) {
            objects.set_register(namespace, &register::entries(&self));
        }
    }

    fn forget(key: &Key, objects: &Objects) {
        if let Some(namespace) = register::subject(&key.name) {
            objects.set_register(namespace, &BTreeMap::new());
        }
    }
}

/// A kind of which only the metadata is read: existence and applied hash suffice.
pub(super) trait Present: Resource<DynamicType = ()> {
    /// An object of any origin appeared or was deleted.
    fn present(_: Key, _there: bool) -> Change {
        Box::new(|_| ())
    }
}

impl Present for ConfigMap {}
impl Present for PodDisruptionBudget {}
/// Objects of others are known by name, since rules name them.
impl Present for ServiceAccount {
    fn present(key: Key, there: bool) -> Change {
        Box::new(move |index| index.set_account(&key, there))
    }
}

impl<K> Watched for PartialObjectMeta<K>
where
    K: Present + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    fn index(&self, key: &Key) -> Change {
        K::present(key.clone(), true)
    }

    fn unindex(key: Key) -> Change {
        K::present(key, false)
    }

    fn store(self, key: &Key, objects: &Objects) {
        let live = Live::of(&self.metadata);
        objects.set_live(&K::kind(&()), key, live.ours.then_some(live));
    }

    fn forget(key: &Key, objects: &Objects) {
        objects.set_live(&K::kind(&()), key, None);
    }
}
