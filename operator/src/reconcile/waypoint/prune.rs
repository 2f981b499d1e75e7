//! Deletion of a waypoint: callers first, then its pods, then the objects that its last pods still need.

use std::time::Duration;

use kube::core::GroupVersionKind;
use tokio::time::Instant;
use tracing::info;

use super::render::kind;
use super::{WaypointReconciler, lock};
use crate::index::{Key, Registered, WaypointSummary};
use crate::reconcile::{Live, ReconcileError};

/// Time between updating the data plane that a waypoint is no longer used, and stopping it: ztunnels receive the update
/// at different times.
pub(super) const LEAVE: Duration = Duration::from_secs(5);

impl WaypointReconciler {
    /// Deletes the remains of a waypoint, step by step; returns whether nothing remains. Only objects that the operator
    /// has applied are deleted.
    pub(super) async fn prune(&self, key: &Key, waypoint: &WaypointSummary) -> Result<bool, ReconcileError> {
        let Key { namespace, name } = key;
        lock(&self.troubles).remove(key);
        self.autoscaler.remove(key);
        self.register.settle(key, self.objects.registered(key).as_ref());
        let budget = kind("PodDisruptionBudget");
        let Some(entry) = self.entry(key) else {
            lock(&self.leaving).remove(key);
            self.delete(&budget, namespace, name).await?;
            return Ok(true);
        };
        if entry.bound {
            // If the waypoint is desired again meanwhile, it starts anew.
            let unbound = Registered {
                bound: false,
                ..entry.clone()
            };
            self.register.record(key, Some(unbound)).await?;
        }
        let now = Instant::now();
        let since = *lock(&self.leaving).entry(key.clone()).or_insert_with(|| {
            info!(%namespace, waypoint = %name, "no longer desired: it drains");
            now
        });
        if now.duration_since(since) < LEAVE {
            return Ok(false);
        }
        let deployment = self.objects.live("Deployment", namespace, name);
        let running = deployment.is_some_and(|live| live.uid.is_some() && live.uid == entry.deployment);
        if running || self.applied.last_applied("Deployment", namespace, name).is_some() {
            self.delete_registered("Deployment", key, &entry).await?;
        }
        self.delete(&budget, namespace, name).await?;
        if running || !waypoint.pods.is_empty() {
            return Ok(false);
        }
        // Its last pods needed these objects, and the register entry.
        for kind in ["Deployment", "Service", "ServiceAccount"] {
            self.delete_registered(kind, key, &entry).await?;
        }
        self.register.record(key, None).await?;
        Ok(true)
    }

    /// Deletes exactly the object in the register.
    async fn delete_registered(
        &self,
        kind_name: &str,
        key: &Key,
        entry: &Registered,
    ) -> Result<(), ReconcileError> {
        let Some(uid) = entry.uid(kind_name) else {
            return Ok(());
        };
        let object = Live {
            uid: Some(uid.clone()),
            ..Live::default()
        };
        self.applied
            .delete(&self.client, &kind(kind_name), &key.namespace, &key.name, &object)
            .await
    }

    /// Deletes an object of ours: the one that the watch shows, or the one that was applied if the watch shows none,
    /// for instance without its label.
    pub(super) async fn delete(
        &self,
        gvk: &GroupVersionKind,
        namespace: &str,
        name: &str,
    ) -> Result<(), ReconcileError> {
        let shown = self.objects.live(&gvk.kind, namespace, name);
        match shown.or_else(|| self.applied.last_applied(&gvk.kind, namespace, name)) {
            Some(live) => {
                self.applied
                    .delete(&self.client, gvk, namespace, name, &live)
                    .await
            }
            None => Ok(()),
        }
    }
}
