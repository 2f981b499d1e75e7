//! Which objects the operator has applied.

use ambit_crds::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Whether the operator has made the object: its label says so, or what applying it left there, should somebody have taken the label off.
pub(crate) fn is_ours(meta: &ObjectMeta) -> bool {
    let label = meta.labels.as_ref().and_then(|l| l.get(labels::MANAGED_BY));
    label.is_some_and(|l| l == labels::OPERATOR) || was_applied(meta)
}

/// Whether the object bears what applying it leaves: the hash, and the operator among the managers of its fields
/// (`metadata.managedFields` of the Kubernetes API).
fn was_applied(meta: &ObjectMeta) -> bool {
    let mut entries = meta.managed_fields.iter().flatten();
    let hash = meta
        .annotations
        .as_ref()
        .and_then(|a| a.get(labels::APPLIED_HASH));
    hash.is_some()
        && entries.any(|entry| {
            entry.manager.as_deref() == Some(labels::OPERATOR)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        })
}
