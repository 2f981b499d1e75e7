//! Server-Side Apply of what is wanted, where it differs from what was applied.

use std::collections::HashMap;
use std::fmt::Write;

use ambit_crds::labels;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use crate::reconcile::dataplane::Rendered;
use crate::reconcile::{FIELD_MANAGER, ReconcileError};

/// What was applied, so that nothing is written twice.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Kind and name → hash of what was wanted, and the generation that applying it made.
    objects: HashMap<(String, String), (String, Option<i64>)>,
}

impl Applied {
    /// Forgets everything: all of it is applied again (which writes nothing where nothing differs).
    pub(super) fn forget(&mut self) {
        self.objects.clear();
    }

    /// The generation that applying an object made; `None` when that was not done here.
    pub(super) fn generation(&self, kind: &str, name: &str) -> Option<i64> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))?.1
    }

    /// Applies `wanted` unless that was done already and the object, whose `generation` is given where it is watched (the watch may be
    /// behind), is as it was left then.
    pub(super) async fn apply(
        &mut self,
        client: &Client,
        namespace: &str,
        wanted: Rendered,
        generation: Option<Option<i64>>,
    ) -> Result<(), ReconcileError> {
        let Rendered {
            gvk,
            name,
            mut object,
        } = wanted;
        let hash = hash(&object);
        let id = (gvk.kind.clone(), name.clone());
        if let Some((applied, left)) = self.objects.get(&id)
            && *applied == hash
            && generation.is_none_or(|now| now.is_some_and(|now| Some(now) <= *left))
        {
            return Ok(());
        }
        object["metadata"]["annotations"] = json!({labels::APPLIED_HASH: hash});
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&gvk));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api
            .patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .map_err(ReconcileError::api(format!("{} {namespace}/{name}", gvk.kind)))?;
        info!(kind = %gvk.kind, %namespace, %name, "applied");
        self.objects.insert(id, (hash, applied.metadata.generation));
        Ok(())
    }
}

fn hash(value: &Value) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(value.to_string()).iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
