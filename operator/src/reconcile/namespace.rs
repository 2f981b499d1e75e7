//! AmbientNamespaces: created if only the label enrols, and updated.

mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_crds::{AmbientNamespace, labels};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tracing::{debug, info};

use super::conditions::Finding;
use super::pace::Pace;
use super::recorder::Events;
use super::status::write_status;
use super::{FIELD_MANAGER, Objects, ReconcileError, is_conflict, is_not_found, leaving, waypoint};
use crate::index::{AmbientRecord, Key, NamespaceSummary, SharedIndex};

/// Reconciles AmbientNamespaces.
#[derive(Clone)]
pub(super) struct NamespaceReconciler {
    client: Client,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    events: Events,
    pace: Arc<Pace>,
}

/// The action for a namespace's object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Delete,
    Status,
    Nothing,
}

fn step(summary: &NamespaceSummary, object: Option<&AmbientRecord>) -> Step {
    match object {
        None if summary.exists && summary.labelled && summary.mesh => Step::Create,
        None => Step::Nothing,
        // The object has the pods that remain to be released, until there are none.
        Some(object) if object.ours && !(summary.labelled && summary.mesh) && summary.releasing == 0 => {
            Step::Delete
        }
        Some(_) => Step::Status,
    }
}

impl NamespaceReconciler {
    pub(super) fn new(
        client: Client,
        index: Arc<SharedIndex>,
        objects: Arc<Objects>,
        events: Events,
    ) -> Self {
        Self {
            client,
            index,
            objects,
            events,
            pace: Arc::default(),
        }
    }

    /// One pass over one namespace; `troubles` are problems of its waypoints, by waypoint. Returns when to run again
    /// even if nothing changes.
    pub(super) async fn reconcile(
        &self,
        namespace: &str,
        troubles: &BTreeMap<String, String>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let object = self.objects.ambient(namespace);
        let record = object.as_deref().map(AmbientRecord::of);
        let summary = self.index.read(|index| index.namespace_summary(namespace));
        match (step(&summary, record.as_ref()), object) {
            (Step::Create, _) => self.create(namespace).await?,
            (Step::Delete, Some(object)) => self.delete(namespace, &object).await?,
            (Step::Status, Some(object)) => {
                return self.write_status(namespace, &object, &summary, troubles).await;
            }
            _ => {}
        }
        Ok(None)
    }

    fn api(&self, namespace: &str) -> Api<AmbientNamespace> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create(&self, namespace: &str) -> Result<(), ReconcileError> {
        let name = labels::AMBIENT_NAMESPACE;
        let object = json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace",
            "metadata": {"name": name, "namespace": namespace, "labels": {labels::MANAGED_BY: labels::OPERATOR}},
            "spec": {"enrollment": "Label"},
        });
        match self
            .api(namespace)
            .patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&object))
            .await
        {
            Ok(_) => {}
            // The namespace is being deleted, or somebody else created the object meanwhile.
            Err(error) if leaving(&error) || is_conflict(&error) => {
                debug!(%namespace, %error, "no AmbientNamespace was created");
                return Ok(());
            }
            Err(error) => {
                let note = format!(
                    "the pods are captured, but the AmbientNamespace for their status cannot be created: \
                     {error}"
                );
                self.send(namespace, EventType::Warning, "NoAmbientNamespace", &note)
                    .await;
                return Err(ReconcileError::api(format!("AmbientNamespace of {namespace}"))(
                    error,
                ));
            }
        }
        info!(%namespace, "enrolled by label");
        self.publish(
            namespace,
            "Enrolled",
            "the label enrols the namespace: its pods are captured without a restart",
        )
        .await;
        Ok(())
    }

    async fn delete(&self, namespace: &str, object: &AmbientNamespace) -> Result<(), ReconcileError> {
        if object.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        // Only this version of it: if somebody else has written to it meanwhile, it is theirs.
        let preconditions = Preconditions {
            uid: object.uid(),
            resource_version: object.resource_version(),
        };
        let parameters = DeleteParams {
            preconditions: Some(preconditions),
            ..Default::default()
        };
        match self.api(namespace).delete(&object.name_any(), &parameters).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(()),
            Err(error) => {
                return Err(ReconcileError::api(format!("AmbientNamespace of {namespace}"))(
                    error,
                ));
            }
        }
        info!(%namespace, "no longer enrolled");
        self.publish(namespace, "Unenrolled", "its pods have left the mesh")
            .await;
        Ok(())
    }

    async fn write_status(
        &self,
        namespace: &str,
        object: &AmbientNamespace,
        summary: &NamespaceSummary,
        troubles: &BTreeMap<String, String>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let waypoints = waypoint::statuses(&self.index, &self.objects, namespace);
        let finding = status::finding(summary, &waypoints, troubles);
        let status = status::status(object, summary, waypoints, &finding);
        if object.status.as_ref() == Some(&status) {
            return Ok(None);
        }
        let before = object.status.as_ref();
        let counters = before.is_some_and(|before| status::differs_in_counters(before, &status));
        let held = self
            .pace
            .hold(namespace, counters, summary.pending + summary.releasing > 0);
        if held.is_some() {
            return Ok(held);
        }
        let key = Key::new(namespace, object.name_any());
        if write_status(&self.api(namespace), &key, &status).await? {
            self.publish_change(object, &finding).await;
        }
        Ok(None)
    }

    /// Publishes an Event on the object if the reason has changed.
    async fn publish_change(&self, object: &AmbientNamespace, finding: &Finding) {
        let before = object
            .status
            .as_ref()
            .and_then(|s| s.conditions.first())
            .map(|c| c.reason.as_str());
        if before != Some(finding.reason) {
            let kind = if finding.degraded {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.events
                .publish(object, kind, finding.reason, &finding.message)
                .await;
        }
    }

    async fn publish(&self, namespace: &str, reason: &str, note: &str) {
        self.send(namespace, EventType::Normal, reason, note).await;
    }

    /// Publishes an Event on the namespace, in that namespace.
    async fn send(&self, namespace: &str, kind: EventType, reason: &str, note: &str) {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Namespace".to_owned()),
            name: Some(namespace.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        };
        self.events.publish_on(&reference, kind, reason, note).await;
    }
}

#[cfg(test)]
mod tests {
    use ambit_crds::{Mesh, MeshSpec};

    use super::*;
    use crate::index::{Config, MeshRecord};
    use crate::reconcile::testing::Server;

    fn record(ours: bool) -> AmbientRecord {
        AmbientRecord {
            enrollment: ambit_crds::Enrollment::Ambient,
            mtls: None,
            mtls_ports: BTreeMap::new(),
            rules: Vec::new(),
            waypoint: None,
            ours,
        }
    }

    #[test]
    fn an_object_of_ours_follows_the_label() {
        let labelled = NamespaceSummary {
            exists: true,
            labelled: true,
            mesh: true,
            ..Default::default()
        };
        let plain = NamespaceSummary {
            labelled: false,
            ..labelled.clone()
        };
        let releasing = NamespaceSummary {
            releasing: 2,
            ..plain.clone()
        };
        let meshless = NamespaceSummary {
            mesh: false,
            ..labelled.clone()
        };
        let gone = NamespaceSummary {
            exists: false,
            ..labelled.clone()
        };
        let (ours, theirs) = (record(true), record(false));
        for (summary, object, expected) in [
            (&labelled, None, Step::Create),
            (&gone, None, Step::Nothing),
            (&plain, None, Step::Nothing),
            (&meshless, None, Step::Nothing),
            (&labelled, Some(&ours), Step::Status),
            (&plain, Some(&ours), Step::Delete),
            (&releasing, Some(&ours), Step::Status),
            (&meshless, Some(&ours), Step::Delete),
            (&plain, Some(&theirs), Step::Status),
            (&meshless, Some(&theirs), Step::Status),
        ] {
            assert_eq!(step(summary, object), expected, "{summary:?} {object:?}");
        }
    }

    /// For instance an admission webhook or a quota refuses. Enrolment needs no object, so nothing else would show
    /// that.
    #[tokio::test]
    async fn a_refused_object_is_an_event_on_the_namespace() {
        let server = Server::default();
        server.refuse(
            "/apis/ambit.dev/v1alpha1/namespaces/shop/ambientnamespaces/ambient",
            true,
        );
        let index = Arc::new(SharedIndex::new(Config::default()));
        let mesh = Mesh::new("default", MeshSpec::default());
        index.change(|index| {
            index.set_mesh(Some(MeshRecord::of(&mesh)));
            index.set_namespace("shop", Some(true));
        });
        let events = Events::new(server.client(), "op");
        let reconciler = NamespaceReconciler::new(server.client(), index, Arc::default(), events);
        assert!(reconciler.reconcile("shop", &BTreeMap::new()).await.is_err());
        let events = server.events_about(|about| about["kind"] == "Namespace" && about["name"] == "shop");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, "NoAmbientNamespace");
        assert!(
            events[0]
                .1
                .contains("the AmbientNamespace for their status cannot be created"),
            "{}",
            events[0].1
        );
    }
}
