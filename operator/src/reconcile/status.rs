//! Writing of statuses.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{FIELD_MANAGER, ReconcileError, is_not_found};
use crate::index::Key;

/// Applies the status of an object; returns false if there is no such object any more. The namespace in `key` of an
/// object of the cluster is empty.
pub(super) async fn write_status<K>(
    api: &Api<K>,
    key: &Key,
    status: &impl Serialize,
) -> Result<bool, ReconcileError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let Key { namespace, name } = key;
    let kind = K::kind(&());
    let what = || match namespace.is_empty() {
        true => format!("status of {kind} {name}"),
        false => format!("status of {kind} {namespace}/{name}"),
    };
    let status = serde_json::to_value(status).map_err(ReconcileError::json(what()))?;
    let mut patch = json!({
        "apiVersion": K::api_version(&()), "kind": kind, "metadata": {"name": name}, "status": status,
    });
    if !namespace.is_empty() {
        patch["metadata"]["namespace"] = json!(namespace);
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(name, &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(ReconcileError::api(what())(error)),
    }
}
