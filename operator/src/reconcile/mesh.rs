//! The Mesh: what it has rolled out, what its status says, and its end.

mod deletion;
mod status;
mod uninstall;

use std::sync::Arc;
use std::time::Duration;

use ambit_crds::{Mesh, MeshStatus, labels};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::info;

use status::Rollout;
pub(super) use status::count;
pub use uninstall::uninstall;

use super::apply::Applied;
use super::conditions::Finding;
use super::nodes::InstalledNodes;
use super::recorder::Events;
use super::{FIELD_MANAGER, Objects, ReconcileError, Settings, dataplane, is_conflict, is_not_found};
use crate::index::{MeshSummary, SharedIndex};

/// The least Kubernetes version (major, minor) that the data plane is rolled out on: the CRDs' rules need its CEL library for IP
/// addresses, and the control plane its bound tokens.
pub const LEAST_KUBERNETES: (u32, u32) = (1, 30);

/// Reason of the conditions while nodes are being cleared.
const UNINSTALLING: &str = "Uninstalling";

/// What is asked of nodes again, while waiting for them.
const POLL: Duration = Duration::from_secs(2);

/// Reconciles the Mesh.
pub(super) struct MeshReconciler {
    client: Client,
    settings: Settings,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    events: Events,
    installed: InstalledNodes,
    applied: Applied,
    /// Major and minor, once asked for.
    kubernetes: Option<(u32, u32)>,
}

impl MeshReconciler {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        index: Arc<SharedIndex>,
        objects: Arc<Objects>,
        events: Events,
    ) -> Self {
        let installed = InstalledNodes::new(client.clone(), &settings.namespace);
        Self {
            installed,
            client,
            settings,
            index,
            objects,
            events,
            applied: Applied::default(),
            kubernetes: None,
        }
    }

    /// Somebody else may have written meanwhile: everything is looked at anew.
    pub(super) fn forget(&mut self) {
        self.applied.forget();
        self.kubernetes = None;
    }

    /// One pass; when to come again even if nothing changes.
    pub(super) async fn reconcile(&mut self) -> Result<Option<Duration>, ReconcileError> {
        let Some(mesh) = self.objects.mesh() else {
            self.applied.forget();
            return Ok(None);
        };
        if mesh.metadata.deletion_timestamp.is_some() {
            return self.delete(&mesh).await;
        }
        let (major, minor) = self.kubernetes().await?;
        if (major, minor) < LEAST_KUBERNETES {
            let message = format!(
                "this cluster runs Kubernetes {major}.{minor}; the least version is {}.{}: upgrade the cluster. Nothing is rolled out",
                LEAST_KUBERNETES.0, LEAST_KUBERNETES.1
            );
            self.write_status(&mesh, &Finding::degraded("KubernetesTooOld", message))
                .await?;
            return Ok(None);
        }
        if !mesh.finalizers().iter().any(|f| f == labels::FINALIZER) {
            let finalizers = mesh
                .finalizers()
                .iter()
                .cloned()
                .chain([labels::FINALIZER.to_owned()]);
            self.set_finalizers(&mesh, finalizers.collect()).await?;
        }
        for wanted in dataplane::render(&self.settings, &mesh) {
            let live = self
                .objects
                .live(&wanted.gvk.kind, &wanted.namespace, &wanted.name);
            if let Err(error) = self.applied.apply(&self.client, wanted, live.as_ref()).await {
                let finding = Finding::degraded("ApplyFailed", error.to_string());
                self.write_status(&mesh, &finding).await?;
                return Err(error);
            }
        }
        let (agent, ztunnel) = self.rollouts();
        let settled = agent.done && ztunnel.done;
        let troubles = if settled {
            Vec::new()
        } else {
            self.troubles().await?
        };
        let summary = self.summary();
        self.write_status(&mesh, &status::finding(agent, ztunnel, &troubles, &summary))
            .await?;
        Ok((!settled).then_some(POLL))
    }

    fn rollouts(&self) -> (Rollout, Rollout) {
        let of = |name| {
            let wanted = self.applied.version("DaemonSet", &self.settings.namespace, name);
            Rollout::of(self.objects.daemon_set(name).as_deref(), wanted)
        };
        (of(dataplane::AGENT), of(dataplane::ZTUNNEL))
    }

    fn summary(&self) -> MeshSummary {
        self.index.read(crate::index::Index::mesh_summary)
    }

    async fn kubernetes(&mut self) -> Result<(u32, u32), ReconcileError> {
        if let Some(version) = self.kubernetes {
            return Ok(version);
        }
        let info = self
            .client
            .apiserver_version()
            .await
            .map_err(ReconcileError::api("version of the API server"))?;
        let version = (number(&info.major), number(&info.minor));
        self.kubernetes = Some(version);
        Ok(version)
    }

    /// The data plane's pods that cannot start.
    async fn troubles(&self) -> Result<Vec<String>, ReconcileError> {
        let pods = self
            .data_plane_pods(&format!("{}={}", labels::PART_OF, labels::AMBIT))
            .await?;
        Ok(pods.iter().filter_map(status::trouble).collect())
    }

    async fn data_plane_pods(&self, selector: &str) -> Result<Vec<Pod>, ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let list = api.list(&ListParams::default().labels(selector)).await;
        list.map(|l| l.items)
            .map_err(ReconcileError::api("pods of the data plane"))
    }

    async fn delete(&mut self, mesh: &Mesh) -> Result<Option<Duration>, ReconcileError> {
        if !mesh.finalizers().iter().any(|f| f == labels::FINALIZER) {
            return Ok(None);
        }
        let agents = self
            .data_plane_pods(&format!("{}={}", labels::NAME, dataplane::AGENT))
            .await?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes
            .list(&ListParams::default())
            .await
            .map_err(ReconcileError::api("nodes"))?
            .items;
        let installed = self
            .installed
            .list()
            .await
            .map_err(ReconcileError::api("nodes with agents"))?;
        let deployed = self.objects.daemon_set(dataplane::AGENT).is_some();
        let agents = deletion::Agents {
            pods: &agents,
            installed: &installed,
            deployed,
        };
        let remains = self.index.read(|index| deletion::remains(&nodes, &agents, index));
        if !remains.nodes.is_empty() {
            let message = format!(
                "{} nodes have yet to be cleared: {}. One that will not come back is no longer waited for once its Node object is deleted",
                remains.nodes.len(),
                status::named(&remains.nodes)
            );
            self.write_status(mesh, &Finding::progressing(UNINSTALLING, message))
                .await?;
            return Ok(Some(POLL));
        }
        let (kind, note) = if remains.given_up.is_empty() {
            (
                EventType::Normal,
                "every pod is released, and every node is as it was".to_owned(),
            )
        } else {
            let given_up = status::named(&remains.given_up);
            (
                EventType::Warning,
                format!("these nodes could not be cleared, and need a reboot: {given_up}"),
            )
        };
        self.events.publish(mesh, kind, "Uninstalled", &note).await;
        self.installed
            .clear()
            .await
            .map_err(ReconcileError::api("nodes with agents"))?;
        let finalizers = mesh
            .finalizers()
            .iter()
            .filter(|f| *f != labels::FINALIZER)
            .cloned();
        self.set_finalizers(mesh, finalizers.collect()).await?;
        info!("the Mesh is gone: its DaemonSets follow");
        self.applied.forget();
        Ok(None)
    }

    async fn set_finalizers(&self, mesh: &Mesh, finalizers: Vec<String>) -> Result<(), ReconcileError> {
        let api: Api<Mesh> = Api::all(self.client.clone());
        // With the version that was read: a change in between makes it fail, and it is tried again.
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": mesh.metadata.resource_version}});
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        match api
            .patch_metadata(&mesh.name_any(), &parameters, &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("finalizers of the Mesh")(error)),
        }
    }

    async fn write_status(&self, mesh: &Mesh, finding: &Finding) -> Result<(), ReconcileError> {
        let (agent, ztunnel) = self.rollouts();
        let version = env!("CARGO_PKG_VERSION");
        let (summary, configuration) = self
            .index
            .read(|index| (index.mesh_summary(), index.configuration()));
        let status = status::status(mesh, version, agent, ztunnel, &summary, configuration, finding);
        if mesh.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<Mesh> = Api::all(self.client.clone());
        let patch = status_patch("Mesh", &mesh.name_any(), None, &status)?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api
            .patch_status(&mesh.name_any(), &parameters, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(ReconcileError::api("status of the Mesh")(error)),
        }
        self.tell(mesh, &status, finding).await;
        Ok(())
    }

    /// An Event where the reason is another than before.
    async fn tell(&self, mesh: &Mesh, status: &MeshStatus, finding: &Finding) {
        let before = mesh
            .status
            .as_ref()
            .and_then(|s| s.conditions.first())
            .map(|c| c.reason.as_str());
        if before != status.conditions.first().map(|c| c.reason.as_str()) {
            let kind = if finding.degraded {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.events
                .publish(mesh, kind, finding.reason, &finding.message)
                .await;
        }
    }
}

/// A status as Server-Side Apply takes it.
pub(super) fn status_patch(
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    status: &impl serde::Serialize,
) -> Result<Value, ReconcileError> {
    let status =
        serde_json::to_value(status).map_err(ReconcileError::json(format!("status of {kind} {name}")))?;
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    Ok(json!({"apiVersion": "ambit.dev/v1alpha1", "kind": kind, "metadata": metadata, "status": status}))
}

/// Digits at the beginning: managed clusters say `30+`.
fn number(text: &str) -> u32 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().unwrap_or_default()
}

#[cfg(test)]
mod tests;
