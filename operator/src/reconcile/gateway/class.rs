//! GatewayClasses and XMeshes that name Ambit as their controller: their statuses, and one of each that the operator
//! creates where the cluster has the kind.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use ambit_crds::labels;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{debug, info};

use super::store::Stored;
use super::write_status;
use crate::gateway::{CONTROLLER, FEATURES, GatewayClass, SupportStatus, WAYPOINT_CLASS, XMesh};
use crate::index::{Key, is_ours};
use crate::reconcile::conditions::condition;
use crate::reconcile::{FIELD_MANAGER, Objects, ReconcileError, is_conflict, is_not_found};

/// A kind whose objects name their controller.
trait Claimed:
    Stored
    + Resource<DynamicType = (), Scope = ClusterResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
{
    /// Name of the object that the operator creates.
    const NAME: &'static str;
    /// Its description.
    const DESCRIPTION: &'static str;

    fn controller(&self) -> &str;
    fn parameters(&self) -> Option<&Value>;
    fn support(&self) -> Option<&SupportStatus>;
    /// Conditions besides Accepted: type, status, reason and message. `ready` is the condition Ready of the Mesh.
    fn more(ready: Option<&Condition>) -> Option<(&'static str, bool, String, String)>;
}

impl Claimed for GatewayClass {
    const NAME: &'static str = WAYPOINT_CLASS;
    const DESCRIPTION: &'static str = "Waypoints of Ambit";

    fn controller(&self) -> &str {
        &self.spec.controller_name
    }

    fn parameters(&self) -> Option<&Value> {
        self.spec.parameters_ref.as_ref()
    }

    fn support(&self) -> Option<&SupportStatus> {
        self.status.as_ref()
    }

    fn more(_: Option<&Condition>) -> Option<(&'static str, bool, String, String)> {
        None
    }
}

impl Claimed for XMesh {
    const NAME: &'static str = labels::AMBIT;
    const DESCRIPTION: &'static str = "The mesh of Ambit";

    fn controller(&self) -> &str {
        &self.spec.controller_name
    }

    fn parameters(&self) -> Option<&Value> {
        self.spec.parameters_ref.as_ref()
    }

    fn support(&self) -> Option<&SupportStatus> {
        self.status.as_ref()
    }

    fn more(ready: Option<&Condition>) -> Option<(&'static str, bool, String, String)> {
        let (holds, reason, message) = match ready {
            Some(ready) => (
                ready.status == "True",
                ready.reason.as_str(),
                ready.message.as_str(),
            ),
            None => (false, "Pending", "no Mesh exists, or it has no status yet"),
        };
        Some((
            labels::CONDITION_READY,
            holds,
            reason.to_owned(),
            message.to_owned(),
        ))
    }
}

/// Writes them.
pub(in crate::reconcile) struct ClassReconciler {
    client: Client,
    objects: Arc<Objects>,
}

impl ClassReconciler {
    pub(in crate::reconcile) fn new(client: Client, objects: Arc<Objects>) -> Self {
        Self { client, objects }
    }

    /// One pass over all of them.
    pub(in crate::reconcile) async fn reconcile(&self) -> Result<Option<Duration>, ReconcileError> {
        let classes = self.kind::<GatewayClass>().await;
        let meshes = self.kind::<XMesh>().await;
        classes.and(meshes).map(|()| None)
    }

    async fn kind<K: Claimed>(&self) -> Result<(), ReconcileError> {
        let Some(all) = self.objects.claims::<K>() else {
            return Ok(());
        };
        let mesh = self.objects.mesh();
        let mesh = mesh.filter(|mesh| mesh.metadata.deletion_timestamp.is_none());
        let api: Api<K> = Api::all(self.client.clone());
        let own = all.get(K::NAME);
        match (&mesh, own) {
            (Some(_), None) => create(&api).await?,
            (None, Some(own)) if is_ours(own.meta()) => return delete(&api, own).await,
            _ => {}
        }
        let conditions = mesh.as_ref().and_then(|mesh| mesh.status.as_ref());
        let mut conditions = conditions.into_iter().flat_map(|status| &status.conditions);
        let ready = conditions.find(|c| c.type_ == labels::CONDITION_READY);
        let mut result = Ok(());
        for object in all.values().filter(|object| object.controller() == CONTROLLER) {
            result = result.and(write(&api, &**object, ready).await);
        }
        result
    }
}

async fn create<K: Claimed>(api: &Api<K>) -> Result<(), ReconcileError> {
    let kind = K::kind(&());
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": kind,
        "metadata": {
            "name": K::NAME, "labels": {labels::MANAGED_BY: labels::OPERATOR, labels::PART_OF: labels::AMBIT},
        },
        "spec": {"controllerName": CONTROLLER, "description": K::DESCRIPTION},
    });
    match api
        .patch(
            K::NAME,
            &PatchParams::apply(FIELD_MANAGER),
            &Patch::Apply(&object),
        )
        .await
    {
        Ok(_) => {
            info!(%kind, name = K::NAME, "created");
            Ok(())
        }
        // The kind is going, or somebody else created the object meanwhile.
        Err(error) if is_not_found(&error) || is_conflict(&error) => {
            debug!(%kind, %error, "not created");
            Ok(())
        }
        Err(error) => Err(ReconcileError::api(format!("{kind} {}", K::NAME))(error)),
    }
}

async fn delete<K: Claimed>(api: &Api<K>, own: &K) -> Result<(), ReconcileError> {
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: own.uid(),
        resource_version: None,
    });
    match api.delete(K::NAME, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(ReconcileError::api(format!("{} {}", K::kind(&()), K::NAME))(
            error,
        )),
    }
}

async fn write<K: Claimed>(
    api: &Api<K>,
    object: &K,
    ready: Option<&Condition>,
) -> Result<(), ReconcileError> {
    let before = object.support().cloned().unwrap_or_default();
    let generation = object.meta().generation;
    let say = |kind: &str, holds: bool, reason: &str, message: &str| {
        condition(kind, holds, reason, message, generation, &before.conditions)
    };
    let accepted = match object.parameters() {
        Some(_) => say(
            labels::CONDITION_ACCEPTED,
            false,
            "InvalidParameters",
            "spec.parametersRef is not supported: settings of the mesh are in the Mesh named default",
        ),
        None => say(
            labels::CONDITION_ACCEPTED,
            true,
            "Accepted",
            concat!("accepted by Ambit ", env!("CARGO_PKG_VERSION"), ", Mesh default"),
        ),
    };
    let more = K::more(ready).map(|(kind, holds, reason, message)| say(kind, holds, &reason, &message));
    let status = SupportStatus {
        conditions: std::iter::once(accepted).chain(more).collect(),
        supported_features: FEATURES.iter().map(|name| json!({"name": name})).collect(),
    };
    let has = |c: &Condition| before.conditions.contains(c);
    if before.supported_features == status.supported_features && status.conditions.iter().all(has) {
        return Ok(());
    }
    let key = Key::new("", object.name_any());
    match write_status(api, &key, &status).await {
        Ok(_) => Ok(()),
        // An earlier version of the kind does not have the field.
        Err(error) => {
            debug!(kind = %K::kind(&()), name = key.name, %error, "written without supportedFeatures");
            let conditions = json!({ "conditions": status.conditions });
            write_status(api, &key, &conditions).await.map(drop)
        }
    }
}
