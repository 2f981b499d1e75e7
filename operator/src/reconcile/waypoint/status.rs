//! The waypoints in the status of an AmbientNamespace.

use ambit_crds::WaypointStatus;
use k8s_openapi::api::apps::v1::Deployment;

use crate::index::{Key, SharedIndex};
use crate::reconcile::Objects;
use crate::reconcile::mesh::count;

/// Maximum of waypoints in a status.
const LISTED: usize = 64;

/// The waypoints of a namespace: desired ones, and those that are being deleted.
pub(in crate::reconcile) fn statuses(
    index: &SharedIndex,
    objects: &Objects,
    namespace: &str,
) -> Vec<WaypointStatus> {
    let waypoints = index.read(|index| index.waypoints_in(namespace));
    let listed = waypoints
        .into_iter()
        .filter(|w| w.desired || !w.pods.is_empty())
        .map(|waypoint| {
            let deployment = objects.deployment(&Key::new(namespace, waypoint.name.clone()));
            let desired = deployment.as_deref().map_or(0, desired);
            let ready = count(waypoint.ready());
            WaypointStatus {
                replicas: format!("{ready}/{desired}"),
                name: waypoint.name,
                desired,
                ready,
                services: count(waypoint.services),
            }
        });
    listed.take(LISTED).collect()
}

/// Desired replicas of a Deployment.
pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|s| s.replicas)
        .unwrap_or_default()
}

/// Why a Deployment's pods are missing.
pub(super) fn trouble(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failing =
        |kind: &str, status: &str| conditions.iter().find(|c| c.type_ == kind && c.status == status);
    let condition = failing("ReplicaFailure", "True").or_else(|| failing("Progressing", "False"))?;
    Some(format!(
        "{}: {}",
        condition.reason.as_deref().unwrap_or_default(),
        condition.message.as_deref().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refused_pods_are_reported() {
        let deployment = |conditions: serde_json::Value| -> Deployment {
            serde_json::from_value(json!({
                "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let fine = deployment(json!([{"type": "Progressing", "status": "True"}]));
        assert_eq!((desired(&fine), trouble(&fine)), (2, None));
        let quota = deployment(json!([
            {"type": "Progressing", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
        ]));
        assert_eq!(trouble(&quota).as_deref(), Some("FailedCreate: exceeded quota"));
    }
}
