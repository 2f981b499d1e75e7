//! Applies the Mesh of the chart's values: the chart runs this after it has installed the operator.

use std::time::{Duration, Instant};

use ambit_crds::{Mesh, labels};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tracing::info;

use crate::reconcile::{ReconcileError, is_not_found};

/// Field manager of what the chart's values say about the Mesh. The operator's own is another: it owns the status.
const CHART: &str = "ambit-chart";

/// Why the Mesh was not applied.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The API server refuses the spec: field and reason.
    #[error("the API server refuses the Mesh of the chart's values (`mesh.spec`): {0}")]
    Refused(String),
    /// The API server did not respond, or grants no access.
    #[error(transparent)]
    Api(#[from] ReconcileError),
    /// The API server does not serve the kind.
    #[error(
        "the cluster has no kind Mesh after {0:?}: install the CustomResourceDefinitions (chart value crds.install)"
    )]
    NoKind(Duration),
}

/// Applies the Mesh with this spec. The definition may have been installed a moment ago, so its kind is waited for.
///
/// # Errors
/// When the API server refuses the spec, or has no such kind when `timeout` is up.
pub async fn apply_mesh(
    client: Client,
    spec: Map<String, Value>,
    timeout: Duration,
) -> Result<(), CreateError> {
    let api: Api<Mesh> = Api::all(client);
    let mesh = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh",
        "metadata": { "name": labels::MESH },
        "spec": spec,
    });
    // What the values say wins over what somebody else has set: so it is with all that Helm installs.
    let parameters = PatchParams::apply(CHART).force();
    let begin = Instant::now();
    loop {
        match api.patch(labels::MESH, &parameters, &Patch::Apply(&mesh)).await {
            Ok(_) => {
                info!("the Mesh is applied");
                return Ok(());
            }
            Err(error) if is_not_found(&error) && begin.elapsed() < timeout => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) if is_not_found(&error) => return Err(CreateError::NoKind(timeout)),
            // Unprocessable: the definition of Mesh does not allow it.
            Err(kube::Error::Api(status)) if status.code == 422 => {
                return Err(CreateError::Refused(status.message.clone()));
            }
            Err(error) => {
                return Err(ReconcileError::api("applying the Mesh of the chart's values")(error).into());
            }
        }
    }
}
