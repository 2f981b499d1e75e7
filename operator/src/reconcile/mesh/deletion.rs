//! Deletion of a Mesh: first every pod is released and every node is restored, then the operator's objects are deleted,
//! and then the Mesh.
//!
//! This does not depend on how the Mesh is deleted (in the foreground, the background, or orphaning), nor on whether it
//! still exists: the garbage collector owns none of the objects. Objects that the release needs are created again if
//! somebody deletes them meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ambit_crds::{Mesh, labels};
use futures::{TryStreamExt, stream};
use kube::ResourceExt;
use kube::core::GroupVersionKind;
use kube::runtime::events::EventType;
use tracing::info;

use super::{MeshReconciler, POLL, status};
use crate::index::{Index, Key};
use crate::reconcile::conditions::Finding;
use crate::reconcile::pods::OwnPod;
use crate::reconcile::{Live, ReconcileError, dataplane, register};

/// Reason of the conditions while nodes are being restored.
pub(super) const UNINSTALLING: &str = "Uninstalling";

/// The kinds that the operator applies, in the order of deletion.
const KINDS: [&str; 6] = [
    "DaemonSet",
    "Deployment",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
    "ConfigMap",
];
/// Objects that are deleted at once.
const PARALLEL: usize = 8;

/// State of nodes and their agents.
pub(super) struct Agents<'a> {
    /// Whether each node is Ready, by name.
    pub(super) nodes: &'a BTreeMap<String, bool>,
    /// The agents' pods.
    pub(super) pods: &'a [Arc<OwnPod>],
    /// Nodes on which an agent has captured something, and has not released everything yet.
    pub(super) installed: &'a BTreeSet<String>,
}

/// Unfinished nodes: `<node>: <what>`, by node. An agent that never ran has done nothing, and is not waited for.
pub(super) fn remains(agents: &Agents<'_>, index: &Index) -> Vec<String> {
    let mut remains = Vec::new();
    for (node, ready) in agents.nodes {
        let installed = agents.installed.contains(node);
        let here = agents.pods.iter().filter(|p| p.node == *node);
        let running: Vec<_> = here.filter(|p| p.running).collect();
        let marked = index.pods_on(node).filter(|(_, pod)| pod.marked).count();
        let unfinished = if running.is_empty() {
            installed
        } else {
            !running.iter().all(|p| p.uninstalled)
        };
        let unmarked = running.is_empty() || marked == 0;
        if !unfinished && unmarked {
            continue;
        }
        let what = if marked > 0 {
            format!("{marked} pods to release")
        } else if running.is_empty() {
            "the agent is not running".to_owned()
        } else {
            "the agent has not finished".to_owned()
        };
        let not_ready = if *ready { "" } else { " (not Ready)" };
        remains.push(format!("{node}{not_ready}: {what}"));
    }
    remains
}

impl MeshReconciler {
    /// One pass without a Mesh, or with one that is being deleted; returns when to run again even if nothing changes.
    pub(super) async fn take_down(&self, mesh: Option<&Mesh>) -> Result<Option<Duration>, ReconcileError> {
        let held = mesh.filter(|m| m.finalizers().iter().any(|f| f == labels::FINALIZER));
        let applied = self.objects.all_applied(&self.settings.namespace, &KINDS);
        if held.is_none() && applied.is_empty() {
            self.applied.forget();
            return Ok(None);
        }
        let installed = self
            .installed
            .list()
            .await
            .map_err(ReconcileError::api("nodes with agents"))?;
        let pods: Vec<_> = self.component_pods(dataplane::AGENT);
        let nodes = self.objects.nodes();
        let agents = Agents {
            nodes: &nodes,
            pods: &pods,
            installed: &installed,
        };
        let remains = self.index.read(|index| remains(&agents, index));
        if !remains.is_empty() {
            return self.wait_for(held, &remains).await;
        }
        self.remove_all(applied).await?;
        register::clear(
            &self.client,
            &self.settings.namespace,
            self.objects.registered_namespaces(),
        )
        .await?;
        self.installed
            .clear()
            .await
            .map_err(ReconcileError::api("nodes with agents"))?;
        if let Some(mesh) = held {
            let note = "every pod is released, and every node is restored";
            self.events
                .publish(mesh, EventType::Normal, "Uninstalled", note)
                .await;
            let others = mesh.finalizers().iter().filter(|f| *f != labels::FINALIZER);
            self.set_finalizers(mesh, others.cloned().collect()).await?;
        }
        info!("the data plane is deleted");
        self.applied.forget();
        Ok(None)
    }

    /// Reports the nodes that are waited for, and makes sure that their agents exist.
    async fn wait_for(
        &self,
        mesh: Option<&Mesh>,
        remains: &[String],
    ) -> Result<Option<Duration>, ReconcileError> {
        let message = format!(
            "waiting for {} nodes: {}. If a node will not return, delete its Node object: the operator \
             then no longer waits for it",
            remains.len(),
            status::named(remains)
        );
        let Some(mesh) = mesh else {
            info!(%message, "the Mesh is deleted");
            return Ok(Some(POLL));
        };
        let applied = self.apply_data_plane(mesh).await;
        let finding = match &applied {
            Ok(()) => Finding::progressing(UNINSTALLING, message),
            Err(error) => Finding::degraded(UNINSTALLING, format!("{error}. {message}")),
        };
        self.write_status(mesh, &finding).await?;
        applied.map(|()| Some(POLL))
    }

    /// Deletes the objects that the operator has applied, the agents first. Nothing uses a waypoint any more.
    async fn remove_all(&self, applied: Vec<(String, Key, Live)>) -> Result<(), ReconcileError> {
        for kind in KINDS {
            let of_kind = applied.iter().filter(|(of, _, _)| of == kind);
            let gvk = gvk(kind);
            stream::iter(of_kind.map(Ok))
                .try_for_each_concurrent(PARALLEL, async |(_, key, live)| {
                    self.applied
                        .delete(&self.client, &gvk, &key.namespace, &key.name, live)
                        .await
                })
                .await?;
        }
        Ok(())
    }
}

fn gvk(kind: &str) -> GroupVersionKind {
    let group = match kind {
        "DaemonSet" | "Deployment" => "apps",
        "PodDisruptionBudget" => "policy",
        _ => "",
    };
    GroupVersionKind::gvk(group, "v1", kind)
}

#[cfg(test)]
mod tests;
