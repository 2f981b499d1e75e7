//! The nodes on which an agent has done its work and not undone it, in a ConfigMap: agents' pods come and go, their work stays.

use std::collections::BTreeSet;

use ambit_crds::labels;
use ambit_wire::names;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::is_not_found;

const NAME: &str = "ambit-nodes";
const INSTALLED: &str = "installed";

/// The record of nodes that have something of ours.
#[derive(Clone)]
pub(super) struct InstalledNodes {
    api: Api<ConfigMap>,
}

impl InstalledNodes {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
        }
    }

    /// Enters or strikes out a node; nothing is written where that is so already, as whenever an agent connects anew.
    pub(super) async fn set(&self, node: &str, installed: bool) -> kube::Result<()> {
        if self.list().await?.contains(node) == installed {
            return Ok(());
        }
        let patch = json!({"data": {node: installed.then_some(INSTALLED)}});
        let parameters = PatchParams {
            field_manager: Some(names::CONTROL.to_owned()),
            ..Default::default()
        };
        let patched = async || {
            self.api
                .patch(NAME, &parameters, &Patch::Merge(&patch))
                .await
                .map(|_| ())
        };
        match patched().await {
            Err(error) if is_not_found(&error) => {}
            other => return other,
        }
        if !installed {
            return Ok(());
        }
        // Applied, not posted: the name is in the request, and the right to create goes by it. Without a node, so that what another replica has
        // entered stays.
        let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "labels": {
            labels::PART_OF: labels::AMBIT,
            labels::MANAGED_BY: names::CONTROL,
        }}});
        let applied = PatchParams::apply(names::CONTROL);
        self.api.patch(NAME, &applied, &Patch::Apply(&empty)).await?;
        patched().await
    }

    /// The nodes.
    pub(super) async fn list(&self) -> kube::Result<BTreeSet<String>> {
        let map = self.api.get_opt(NAME).await?;
        Ok(map.and_then(|m| m.data).unwrap_or_default().into_keys().collect())
    }

    /// Strikes out everything.
    pub(super) async fn clear(&self) -> kube::Result<()> {
        match self.api.delete(NAME, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
