//! The end of a waypoint: callers first, then its pods, then what the last of them still needs.

use std::time::Duration;

use ambit_crds::labels;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use super::render::kind;
use super::{KINDS, WaypointReconciler, lock};
use crate::index::{Key, WaypointSummary};
use crate::reconcile::{FIELD_MANAGER, Live, ReconcileError, is_conflict, is_not_found};

/// Between telling the data plane that a waypoint is no longer in the way, and stopping it: ztunnels hear of it at different times.
pub(super) const LEAVE: Duration = Duration::from_secs(5);

impl WaypointReconciler {
    /// Takes down what is left of a waypoint, a step at a time; whether nothing is.
    pub(super) async fn prune(&self, key: &Key, waypoint: &WaypointSummary) -> Result<bool, ReconcileError> {
        let Key { namespace, name } = key;
        lock(&self.troubles).remove(key);
        self.autoscaler.remove(key);
        let live = |kind: &str| self.objects.live(kind, namespace, name);
        if KINDS.iter().all(|kind| live(kind).is_none()) {
            lock(&self.leaving).remove(key);
            return Ok(true);
        }
        if let Some(service) = live("Service").filter(|s| s.bound) {
            self.unbind(key, &service).await?;
        }
        let now = Instant::now();
        let since = *lock(&self.leaving).entry(key.clone()).or_insert_with(|| {
            info!(%namespace, waypoint = %name, "no longer wanted: it drains");
            now
        });
        if now.duration_since(since) < LEAVE {
            return Ok(false);
        }
        let running = live("Deployment").is_some() || !waypoint.pods.is_empty();
        for kind_name in KINDS {
            let outlives_pods = matches!(kind_name, "Service" | "ServiceAccount");
            if !(running && outlives_pods) {
                self.delete(&kind(kind_name), namespace, name).await?;
            }
        }
        Ok(false)
    }

    /// Takes the binding off a Service that stays for a while: should the waypoint be wanted again meanwhile, it begins anew.
    async fn unbind(&self, key: &Key, service: &Live) -> Result<(), ReconcileError> {
        let gvk = kind("Service");
        let what = format!("Service {}/{}", key.namespace, key.name);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &ApiResource::from_gvk(&gvk));
        // Without its hash it is not as it was applied.
        let annotations = json!({ labels::WAYPOINT_BOUND: null, labels::APPLIED_HASH: null });
        let patch = json!({ "metadata": { "uid": service.uid, "annotations": annotations } });
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch_metadata(&key.name, &parameters, &Patch::Merge(&patch))
            .await
        {
            Ok(_) => {
                self.applied.forget_one(&gvk, &key.namespace, &key.name);
                Ok(())
            }
            // It is gone, or another by now.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api(what)(error)),
        }
    }

    /// Deletes an object of ours: the one that the watch shows, and where it shows none, as without its label, the one that was applied.
    pub(super) async fn delete(
        &self,
        gvk: &GroupVersionKind,
        namespace: &str,
        name: &str,
    ) -> Result<(), ReconcileError> {
        let shown = self.objects.live(&gvk.kind, namespace, name);
        match shown.or_else(|| self.applied.left(&gvk.kind, namespace, name)) {
            Some(live) => {
                self.applied
                    .delete(&self.client, gvk, namespace, name, &live)
                    .await
            }
            None => Ok(()),
        }
    }
}
