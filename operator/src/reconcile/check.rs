//! Whether the installation works: what `helm test` runs.

use std::time::{Duration, Instant};

use ambit_crds::{Mesh, labels};
use ambit_wire::names;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};
use tracing::info;

use super::{ReconcileError, is_not_found};

const PAUSE: Duration = Duration::from_secs(1);

/// What is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The API server refused or did not respond.
    #[error(transparent)]
    Api(#[from] ReconcileError),
    /// Time is up.
    #[error("not ready after {0:?}: {1}")]
    Timeout(Duration, String),
}

/// Waits until every replica of the control plane and of the operator is available, and the Mesh, where there is one,
/// is Ready.
///
/// # Errors
/// When the API server refuses, or when that is not so after `timeout`; the error has what is missing.
pub async fn check(client: Client, namespace: &str, timeout: Duration) -> Result<(), CheckError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let meshes: Api<Mesh> = Api::all(client);
    let begin = Instant::now();
    for name in [names::CONTROL, names::OPERATOR] {
        loop {
            let found = deployments.get(name).await;
            let found = found.map_err(ReconcileError::api(format!("reading Deployment {name}")))?;
            match rolled_out(&found) {
                Ok(replicas) => break info!("{name}: {replicas} replicas are available"),
                Err(missing) => pause(begin, timeout, || format!("{name}: {missing}")).await?,
            }
        }
    }
    loop {
        let mesh = match meshes.get_opt(labels::MESH).await {
            Ok(mesh) => mesh,
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(ReconcileError::api("reading the Mesh")(error).into()),
        };
        let Some(mesh) = mesh else {
            info!("there is no Mesh yet: the data plane is not rolled out");
            return Ok(());
        };
        match ready(&mesh) {
            Ok(message) => {
                info!("the Mesh is Ready: {message}");
                return Ok(());
            }
            Err(missing) => pause(begin, timeout, || format!("the Mesh: {missing}")).await?,
        }
    }
}

async fn pause(
    begin: Instant,
    timeout: Duration,
    missing: impl FnOnce() -> String,
) -> Result<(), CheckError> {
    if begin.elapsed() > timeout {
        return Err(CheckError::Timeout(timeout, missing()));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// How many replicas there are, when all are of the present template and available.
fn rolled_out(deployment: &Deployment) -> Result<i32, String> {
    let desired = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return Err("its last change has yet to be noticed".to_owned());
    }
    let updated = status.updated_replicas.unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    let all = status.replicas.unwrap_or_default();
    match updated == desired && available == desired && all == desired {
        true => Ok(desired),
        false => Err(format!(
            "{available} of {desired} replicas are available, {updated} are updated"
        )),
    }
}

/// The message of the condition Ready, when that is true of the present generation.
fn ready(mesh: &Mesh) -> Result<String, String> {
    let status = mesh.status.clone().unwrap_or_default();
    if status.observed_generation != mesh.metadata.generation {
        return Err("no operator has taken notice of its last change yet".to_owned());
    }
    let mut conditions = status.conditions.into_iter();
    let condition = conditions
        .find(|c| c.type_ == "Ready")
        .ok_or("it has no condition Ready")?;
    match condition.status == "True" {
        true => Ok(condition.message),
        false => Err(format!("{}: {}", condition.reason, condition.message)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_rolled_out_when_all_replicas_are_new_and_available() {
        let of = |observed: i32, updated: i32, available: i32, all: i32| {
            let deployment = json!({
                "metadata": {"generation": 3},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": updated,
                    "availableReplicas": available, "replicas": all},
            });
            rolled_out(&serde_json::from_value(deployment).unwrap())
        };
        assert_eq!(of(3, 2, 2, 2), Ok(2));
        assert!(of(2, 2, 2, 2).unwrap_err().contains("yet to be noticed"));
        assert_eq!(
            of(3, 1, 2, 3).unwrap_err(),
            "2 of 2 replicas are available, 1 are updated"
        );
        assert!(of(3, 2, 2, 3).is_err(), "an old one is there still");
        assert!(rolled_out(&Deployment::default()).is_err());
    }

    #[test]
    fn a_mesh_is_ready_of_its_present_generation_only() {
        let of = |generation: i64, status: &str| {
            let mesh = json!({
                "apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh",
                "metadata": {"name": "default", "generation": generation}, "spec": {},
                "status": {"observedGeneration": 2, "conditions": [{
                    "type": "Ready", "status": status, "reason": "PodsFailing", "message": "why",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]},
            });
            ready(&serde_json::from_value(mesh).unwrap())
        };
        assert_eq!(of(2, "True").as_deref(), Ok("why"));
        assert_eq!(of(2, "False").unwrap_err(), "PodsFailing: why");
        assert!(of(3, "True").is_err());
    }
}
