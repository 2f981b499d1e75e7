//! Objects that forge the labels of a waypoint: they give no rights, users get an Event, and those that block the name
//! of a waypoint are deleted.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::GroupVersionKind;
use kube::runtime::events::EventType;
use tracing::warn;

use super::render::kind;
use super::{WaypointReconciler, lock};
use crate::index::{Key, WaypointSummary};
use crate::reconcile::apply::Rendered;
use crate::reconcile::{Live, ReconcileError};

/// Reason of the Events.
const FORGED: &str = "Forged";

impl WaypointReconciler {
    /// Publishes an Event, once each, for Services with a waypoint's labels or name that are not the operator's. If a
    /// waypoint needs the name, the object is handled when the waypoint is applied.
    pub(super) async fn refuse_impostors(&self, namespace: &str, waypoints: &[WaypointSummary]) {
        let impostors = self.index.read(|index| index.impostors_in(namespace));
        lock(&self.refused).retain(|key, uid| {
            key.namespace != namespace || impostors.iter().any(|i| i.name == key.name && i.uid == *uid)
        });
        for impostor in impostors {
            let key = Key::new(namespace, impostor.name);
            let made_here = self.applied.last_applied("Service", namespace, &key.name);
            let is_ours = made_here.is_some_and(|last| last.uid.as_ref() == Some(&impostor.uid));
            let desired = waypoints.iter().any(|w| w.desired && w.name == key.name);
            if is_ours || desired {
                continue;
            }
            if lock(&self.refused)
                .insert(key.clone(), impostor.uid.clone())
                .as_ref()
                == Some(&impostor.uid)
            {
                continue;
            }
            let note = "it has the labels or the name of a waypoint's Service, but Ambit did not create \
                 it: it has no rights of a waypoint. Remove the labels ambit.dev/* and \
                 app.kubernetes.io/managed-by, or delete it";
            warn!(%namespace, service = key.name, uid = impostor.uid, "a Service forges the labels of a \
                 waypoint: refused");
            self.publish(&kind("Service"), &key, &impostor.uid, note).await;
        }
    }

    /// Deletes an object that forges the operator's labels and blocks the name of a waypoint.
    pub(super) async fn evict(
        &self,
        desired: &Rendered,
        what: &str,
        uid: &str,
    ) -> Result<(), ReconcileError> {
        let key = Key::new(desired.namespace.clone(), desired.name.clone());
        warn!(
            object = what,
            uid, "it has Ambit's labels, but Ambit did not create it: replaced"
        );
        let note = "it has Ambit's labels, Ambit did not create it, and a waypoint needs its name: replaced";
        self.publish(&desired.gvk, &key, uid, note).await;
        let forged = Live {
            uid: Some(uid.to_owned()),
            ..Live::default()
        };
        self.applied
            .delete(&self.client, &desired.gvk, &key.namespace, &key.name, &forged)
            .await
    }

    async fn publish(&self, gvk: &GroupVersionKind, key: &Key, uid: &str, note: &str) {
        let reference = ObjectReference {
            api_version: Some(gvk.api_version()),
            kind: Some(gvk.kind.clone()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        self.events
            .publish_on(&reference, EventType::Warning, FORGED, note)
            .await;
    }
}
