//! Records the reports of agents on the pods; and Kubernetes Events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ambit_crds::labels;
use ambit_wire::agent::{CaptureState, NodeState, PodReport};
use ambit_wire::{clipped, names};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{self, EventType, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tracing::{debug, info, warn};

use super::nodes::InstalledNodes;
use super::{is_conflict, is_not_found};
use crate::control::{AgentPod, CaptureSink, PodInfo, RecordError};
use crate::index::{LONGEST_FAILURE, SharedIndex};

/// Number of cached records before those of deleted pods are removed for the first time.
const REMEMBERED: usize = 4096;

/// The reason in the report of a captured pod whose redirection something in the pod removed, and the agent restored.
const RESTORED: &str = "RulesRestored";
/// Minimum interval of Events about that, for one pod: it may happen every second.
const RESTORED_AGAIN: Duration = Duration::from_secs(300);

/// Publishes Kubernetes Events. If one cannot be published, that is logged, and is not an error.
#[derive(Clone)]
pub(super) struct Events {
    recorder: events::Recorder,
}

impl Events {
    pub(super) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: "ambit.dev/operator".to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            recorder: events::Recorder::new(client, reporter),
        }
    }

    /// About `object`.
    pub(super) async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        note: &str,
    ) {
        self.publish_on(&object.object_ref(&()), kind, reason, note).await;
    }

    /// The same with an `action`. Events with one reason and one action count as one that repeats, with the note of the
    /// first.
    pub(super) async fn publish_action<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        action: String,
        reason: &str,
        note: &str,
    ) {
        self.send(&object.object_ref(&()), EventType::Normal, action, reason, note)
            .await;
    }

    /// About the object of `reference`.
    pub(super) async fn publish_on(
        &self,
        reference: &ObjectReference,
        kind: EventType,
        reason: &str,
        note: &str,
    ) {
        self.send(reference, kind, "Reconcile".to_owned(), reason, note)
            .await;
    }

    async fn send(
        &self,
        reference: &ObjectReference,
        kind: EventType,
        action: String,
        reason: &str,
        note: &str,
    ) {
        let event = events::Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(clipped(note, LONGEST_FAILURE).to_owned()),
            action,
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, reference).await {
            debug!(%error, %reason, object = ?reference.name, "the Event could not be published");
        }
    }
}

/// The capture mark and the failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    marked: bool,
    failure: Option<String>,
}

impl Record {
    /// The record after `report`; `None` if the report does not change it.
    fn after(&self, report: &PodReport) -> Option<Self> {
        match report.state() {
            CaptureState::Captured => Some(Self {
                marked: true,
                failure: None,
            }),
            CaptureState::Failed => {
                let reason = if report.reason.is_empty() {
                    "Unknown"
                } else {
                    &report.reason
                };
                let text = format!("{reason}: {}", report.message);
                Some(Self {
                    marked: false,
                    failure: Some(clipped(&text, LONGEST_FAILURE).to_owned()),
                })
            }
            // New connections bypass the proxy from now on.
            CaptureState::Releasing => Some(Self {
                marked: false,
                ..self.clone()
            }),
            CaptureState::Released => Some(Self {
                marked: false,
                failure: None,
            }),
            // An agent that has just started examines captured pods: their record stays.
            CaptureState::Pending | CaptureState::Unspecified => None,
        }
    }
}

/// Writes capture marks and failures on pods, in the replica that has the agent's stream.
pub struct Recorder {
    client: Client,
    index: Arc<SharedIndex>,
    events: Events,
    installed: InstalledNodes,
    /// The last record that this replica wrote, by pod UID: the index may lag.
    written: Mutex<Written>,
    /// When an Event last reported a restored redirection, by pod UID.
    restored: Mutex<HashMap<String, Instant>>,
}

/// The last written records, by pod UID.
#[derive(Debug, Default)]
struct Written {
    records: HashMap<String, Record>,
    /// Number of entries before the next sweep: twice those that remained after the last one.
    sweep_at: usize,
}

impl Recorder {
    /// A recorder that reads `index` to write nothing twice. `namespace` is the operator's; `identity` names this
    /// replica in Events.
    pub fn new(client: Client, index: Arc<SharedIndex>, namespace: &str, identity: &str) -> Self {
        let installed = InstalledNodes::new(client.clone(), namespace);
        let events = Events::new(client.clone(), identity);
        Self {
            client,
            index,
            events,
            installed,
            written: Mutex::default(),
            restored: Mutex::default(),
        }
    }

    fn indexed(&self, uid: &str) -> Option<Record> {
        self.index.read(|index| {
            let (_, pod) = index.pod(uid)?;
            Some(Record {
                marked: pod.marked,
                failure: pod.failure.clone(),
            })
        })
    }

    fn written(&self, uid: &str) -> Option<Record> {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .records
            .get(uid)
            .cloned()
    }

    fn remember(&self, uid: &str, record: Record) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.records.insert(uid.to_owned(), record);
        if written.records.len() > written.sweep_at.max(REMEMBERED) {
            self.index
                .read(|index| written.records.retain(|uid, _| index.pod(uid).is_some()));
            written.sweep_at = written.records.len() * 2;
        }
    }

    /// Whether to publish an Event about the restored redirection of a pod.
    fn announces_restored(&self, uid: &str, report: &PodReport) -> bool {
        if report.state() != CaptureState::Captured || report.reason != RESTORED {
            return false;
        }
        let mut restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        restored.retain(|_, last| last.elapsed() < RESTORED_AGAIN);
        let first = !restored.contains_key(uid);
        if first {
            restored.insert(uid.to_owned(), Instant::now());
        }
        first
    }

    /// Whether the agent's pod has the mark that everything is released.
    async fn is_uninstalled(&self, agent: &AgentPod) -> Result<bool, RecordError> {
        let (namespace, name) = (&agent.namespace, &agent.name);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.get_metadata_opt(name).await {
            Ok(pod) => Ok(pod.is_some_and(|pod| {
                let said = pod.annotations().get(labels::UNINSTALLED);
                said.is_some_and(|said| said == labels::TRUE)
            })),
            Err(error) => Err(RecordError(format!(
                "pod {namespace}/{name} could not be read: {error}"
            ))),
        }
    }

    /// Patches annotations of a pod; `false` if that pod is deleted.
    async fn annotate(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        annotations: serde_json::Value,
    ) -> Result<bool, RecordError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        // The UID makes this fail on another pod of the same name.
        let patch = json!({"metadata": {"uid": uid, "annotations": annotations}});
        let parameters = PatchParams {
            field_manager: Some(names::CONTROL.to_owned()),
            ..Default::default()
        };
        match api.patch_metadata(name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
            Err(error) => Err(RecordError(format!(
                "pod {namespace}/{name} could not be annotated: {error}"
            ))),
        }
    }
}

#[tonic::async_trait]
impl CaptureSink for Recorder {
    async fn record_pod(&self, pod: &PodInfo, report: &PodReport) -> Result<(), RecordError> {
        let Some(indexed) = self.indexed(&pod.uid) else {
            return Ok(());
        };
        let (namespace, name) = (&pod.namespace, &pod.name);
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        };
        if self.announces_restored(&pod.uid, report) {
            warn!(%namespace, %name, node = %pod.node, message = report.message, "redirection restored");
            self.events
                .publish_on(&reference, EventType::Warning, RESTORED, &report.message)
                .await;
        }
        let written = self.written(&pod.uid);
        let Some(next) = written.as_ref().unwrap_or(&indexed).after(report) else {
            return Ok(());
        };
        if next == indexed && written.as_ref().is_none_or(|w| *w == next) {
            return Ok(());
        }
        let annotations = json!({
            labels::CAPTURE_MARK: next.marked.then_some(labels::CAPTURED),
            labels::CAPTURE_FAILURE: next.failure,
        });
        if !self
            .annotate(&pod.namespace, &pod.name, &pod.uid, annotations)
            .await?
        {
            return Ok(());
        }
        let before = written.unwrap_or(indexed);
        if let Some(failure) = &next.failure {
            warn!(%namespace, %name, node = %pod.node, %failure, "capture failed");
            if before.failure.as_ref() != Some(failure) {
                self.events
                    .publish_on(&reference, EventType::Warning, "CaptureFailed", failure)
                    .await;
            }
        } else if next.marked != before.marked {
            info!(%namespace, %name, node = %pod.node, captured = next.marked, "capture recorded");
            let (reason, note) = if next.marked {
                ("Captured", "connections go through the mesh")
            } else {
                ("Released", "new connections bypass the mesh")
            };
            self.events
                .publish_on(&reference, EventType::Normal, reason, note)
                .await;
        }
        self.remember(&pod.uid, next);
        Ok(())
    }

    async fn record_node(&self, agent: &AgentPod, state: NodeState) -> Result<(), RecordError> {
        let done = match state {
            NodeState::Uninstalled => true,
            NodeState::Installed => false,
            NodeState::Unspecified => return Ok(()),
        };
        info!(node = %agent.node, agent = %agent.name, uninstalled = done, "the agent reports");
        let entered = async || {
            let entered = self.installed.set(&agent.node, !done).await;
            entered.map_err(|e| RecordError(format!("could not record node {}: {e}", agent.node)))
        };
        // At every moment one of the two records that the node needs a release.
        if !done {
            entered().await?;
        }
        if self.is_uninstalled(agent).await? != done {
            let annotations = json!({labels::UNINSTALLED: done.then_some(labels::TRUE)});
            self.annotate(&agent.namespace, &agent.name, &agent.uid, annotations)
                .await?;
        }
        if done {
            entered().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
