//! Deletes the Mesh and waits until it is deleted: the chart runs this before it removes the operator.

use std::time::{Duration, Instant};

use ambit_crds::{Mesh, labels};
use kube::api::DeleteParams;
use kube::{Api, Client};
use tracing::info;

use super::deletion::UNINSTALLING;
use crate::reconcile::{ReconcileError, is_not_found};

/// Why the Mesh is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The API server refused or did not respond.
    #[error(transparent)]
    Api(#[from] ReconcileError),
    /// The time is over.
    #[error("the Mesh was not deleted after {0:?}: {1}")]
    Timeout(Duration, String),
}

/// Deletes the Mesh, if there is one, and waits at most `timeout` until every node is restored and the Mesh is deleted.
///
/// # Errors
/// When the API server refuses, or the time is over; the deletion of the Mesh continues.
pub async fn uninstall(client: Client, timeout: Duration) -> Result<(), UninstallError> {
    let api: Api<Mesh> = Api::all(client);
    match api.delete(labels::MESH, &DeleteParams::default()).await {
        Ok(_) => {}
        // Also if the kind itself does not exist.
        Err(error) if is_not_found(&error) => {
            info!("there is no Mesh");
            return Ok(());
        }
        Err(error) => return Err(ReconcileError::api("deleting the Mesh")(error).into()),
    }
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        let mesh = api
            .get_opt(labels::MESH)
            .await
            .map_err(ReconcileError::api("reading the Mesh"))?;
        let Some(mesh) = mesh else {
            info!("the Mesh is deleted");
            return Ok(());
        };
        let conditions = mesh.status.map(|s| s.conditions).unwrap_or_default();
        // Conditions of before the deletion do not describe it.
        let progress = conditions.into_iter().find(|c| c.reason == UNINSTALLING);
        let now = progress.map_or_else(
            || "no operator has reacted yet: one has to run".to_owned(),
            |c| c.message,
        );
        if begin.elapsed() > timeout {
            return Err(UninstallError::Timeout(timeout, now));
        }
        if now != said {
            info!(progress = %now, "waiting for the deletion of the Mesh");
            said = now;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
