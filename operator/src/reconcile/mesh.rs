//! The Mesh: roll-out, status and deletion.

mod create;
mod deletion;
mod status;
mod uninstall;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ambit_crds::{Mesh, MeshSpec, MeshStatus, labels};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

pub use create::apply_mesh;
use status::Rollout;
pub(super) use status::count;
pub use uninstall::uninstall;

use super::apply::Applied;
use super::conditions::Finding;
use super::nodes::InstalledNodes;
use super::pace::Pace;
use super::pods::OwnPod;
use super::recorder::Events;
use super::status::write_status;
use super::{FIELD_MANAGER, Objects, ReconcileError, Settings, dataplane, is_not_found};
use crate::index::{Key, MeshSummary, SharedIndex};

/// The minimum Kubernetes version (major, minor) of the data plane: the CRDs' rules need its CEL library for IP
/// addresses, and the control plane its bound tokens.
pub const LEAST_KUBERNETES: (u32, u32) = (1, 30);

/// Interval of checks while waiting for nodes.
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
    pace: Pace,
    /// Major and minor, once read.
    kubernetes: Mutex<Option<(u32, u32)>>,
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
            pace: Pace::default(),
            kubernetes: Mutex::default(),
        }
    }

    /// Another replica may have written meanwhile: everything is read anew.
    pub(super) fn forget(&self) {
        self.applied.forget();
        *self.lock_kubernetes() = None;
    }

    fn lock_kubernetes(&self) -> MutexGuard<'_, Option<(u32, u32)>> {
        self.kubernetes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pass; returns when to run again even if nothing changes.
    pub(super) async fn reconcile(&self) -> Result<Option<Duration>, ReconcileError> {
        let mesh = self.objects.mesh();
        let going = mesh
            .as_ref()
            .is_none_or(|m| m.metadata.deletion_timestamp.is_some());
        let Some(mesh) = mesh.clone().filter(|_| !going) else {
            return self.take_down(mesh.as_deref()).await;
        };
        if self.objects.is_terminating(&self.settings.namespace) {
            let message = format!(
                "the namespace {} is being deleted, and the data plane with it: every pod is released. \
                 To restore the mesh, install the operator again",
                self.settings.namespace
            );
            return self
                .write_status(&mesh, &Finding::degraded("NamespaceTerminating", message))
                .await;
        }
        let (major, minor) = self.kubernetes().await?;
        if (major, minor) < LEAST_KUBERNETES {
            let message = format!(
                "this cluster runs Kubernetes {major}.{minor}; the minimum is {}.{}: upgrade the \
                 cluster. Nothing is rolled out",
                LEAST_KUBERNETES.0, LEAST_KUBERNETES.1
            );
            return self
                .write_status(&mesh, &Finding::degraded("KubernetesTooOld", message))
                .await;
        }
        if let Some(mistake) = mistake(&mesh.spec) {
            return self
                .write_status(&mesh, &Finding::degraded("SpecInvalid", mistake))
                .await;
        }
        if !mesh.finalizers().iter().any(|f| f == labels::FINALIZER) {
            let finalizers = mesh
                .finalizers()
                .iter()
                .cloned()
                .chain([labels::FINALIZER.to_owned()]);
            self.set_finalizers(&mesh, finalizers.collect()).await?;
        }
        if let Err(error) = self.apply_data_plane(&mesh).await {
            let finding = Finding::degraded("ApplyFailed", error.to_string());
            self.write_status(&mesh, &finding).await?;
            return Err(error);
        }
        let (agent, ztunnel) = self.rollouts();
        let settled = agent.done && ztunnel.done;
        let troubles = if settled { Vec::new() } else { self.troubles() };
        let finding = status::finding(&agent, &ztunnel, &troubles, &self.summary());
        let held = self.write_status(&mesh, &finding).await?;
        Ok(held.or((!settled).then_some(POLL)))
    }

    async fn apply_data_plane(&self, mesh: &Mesh) -> Result<(), ReconcileError> {
        let mut contested = Ok(());
        for desired in dataplane::render(&self.settings, &mesh.spec) {
            let live = self
                .objects
                .live(&desired.gvk.kind, &desired.namespace, &desired.name);
            match self.applied.apply(&self.client, desired, live.as_ref()).await {
                // The other objects are applied nevertheless.
                Err(error @ ReconcileError::Contested { .. }) => contested = Err(error),
                result => result?,
            }
        }
        contested
    }

    fn rollouts(&self) -> (Rollout, Rollout) {
        let nodes = self.objects.nodes();
        let of = |name| {
            let desired = self.applied.version("DaemonSet", &self.settings.namespace, name);
            let pods = self.component_pods(name);
            let ready = |node: &str| pods.iter().any(|p| p.ready && p.node == node);
            let away = nodes.iter().filter(|(node, up)| !**up && !ready(node));
            let away = away.map(|(node, _)| node.clone()).collect();
            Rollout::of(self.objects.daemon_set(name).as_deref(), desired, away)
        };
        (of(dataplane::AGENT), of(dataplane::ZTUNNEL))
    }

    fn summary(&self) -> MeshSummary {
        self.index.read(crate::index::Index::mesh_summary)
    }

    async fn kubernetes(&self) -> Result<(u32, u32), ReconcileError> {
        let known = *self.lock_kubernetes();
        if let Some(version) = known {
            return Ok(version);
        }
        let info = self
            .client
            .apiserver_version()
            .await
            .map_err(ReconcileError::api("version of the API server"))?;
        let version = (number(&info.major), number(&info.minor));
        *self.lock_kubernetes() = Some(version);
        Ok(version)
    }

    /// The data plane's pods that cannot start: `<pod> on <node>: <reason>: <message>`.
    fn troubles(&self) -> Vec<String> {
        let pods = self.objects.own_pods(&self.settings.namespace).into_iter();
        let troubles = pods.filter_map(|(name, pod)| {
            let node = if pod.node.is_empty() { "no node" } else { &pod.node };
            Some(format!("{name} on {node}: {}", pod.trouble.as_ref()?))
        });
        troubles.collect()
    }

    /// The pods of a component of the data plane.
    fn component_pods(&self, component: &str) -> Vec<Arc<OwnPod>> {
        let pods = self.objects.own_pods(&self.settings.namespace).into_iter();
        pods.map(|(_, pod)| pod)
            .filter(|pod| pod.component == component)
            .collect()
    }

    /// Warns of nodes with captured pods that the ztunnels' placement excludes.
    fn without_ztunnel(&self, summary: &MeshSummary) -> Option<String> {
        let ztunnels = self.component_pods(dataplane::ZTUNNEL);
        let served: BTreeSet<_> = ztunnels.iter().map(|pod| &pod.node).collect();
        let exist = self.objects.nodes();
        let nodes = summary.nodes.iter();
        let nodes = nodes.filter(|node| exist.contains_key(*node) && !served.contains(node));
        let nodes: Vec<_> = nodes.cloned().collect();
        let message = "placement excludes nodes with captured pods from having a ztunnel; these pods \
             have no network";
        (!nodes.is_empty()).then(|| format!("{message}: {}", status::named(&nodes)))
    }

    async fn set_finalizers(&self, mesh: &Mesh, finalizers: Vec<String>) -> Result<(), ReconcileError> {
        let api: Api<Mesh> = Api::all(self.client.clone());
        // With the version that was read: a change in between makes it fail, and it is retried.
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
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(ReconcileError::api("finalizers of the Mesh")(error)),
        }
    }

    /// Writes the status if it has changed; returns how long the write is delayed, if it is.
    async fn write_status(&self, mesh: &Mesh, finding: &Finding) -> Result<Option<Duration>, ReconcileError> {
        let (agent, ztunnel) = self.rollouts();
        let version = env!("CARGO_PKG_VERSION");
        let (summary, sent) = self
            .index
            .read(|index| (index.mesh_summary(), index.configurations()));
        let mut status = status::status(mesh, version, &agent, &ztunnel, &summary, sent, finding);
        if ztunnel.done {
            status.warnings.extend(self.without_ztunnel(&summary));
        }
        if mesh.status.as_ref() == Some(&status) {
            return Ok(None);
        }
        let before = mesh.status.as_ref();
        let counters = before.is_some_and(|before| status::differs_in_counters(before, &status));
        let held = self.pace.hold(labels::MESH, counters, summary.changing > 0);
        if held.is_some() {
            return Ok(held);
        }
        let api: Api<Mesh> = Api::all(self.client.clone());
        if write_status(&api, &Key::new("", mesh.name_any()), &status).await? {
            self.publish(mesh, &status, finding).await;
        }
        Ok(None)
    }

    /// Publishes an Event if the reason has changed.
    async fn publish(&self, mesh: &Mesh, status: &MeshStatus, finding: &Finding) {
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

/// Fields of the spec from which objects would be made that the API server refuses.
fn mistake(spec: &MeshSpec) -> Option<String> {
    let all = [
        ("ztunnel", &spec.ztunnel.resources),
        ("agent", &spec.agent.resources),
        ("waypoint", &spec.waypoint.resources),
    ];
    all.into_iter()
        .find_map(|(part, resources)| Some(format!("spec.{part}.resources: {}", resources.mistake()?)))
}

/// Leading digits: managed clusters have `30+`.
fn number(text: &str) -> u32 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().unwrap_or_default()
}

#[cfg(test)]
mod tests;
