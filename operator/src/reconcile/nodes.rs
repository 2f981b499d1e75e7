//! The nodes on which an agent has captured pods and not released everything, in a ConfigMap: pods of agents come and
//! go, their redirection stays.

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

/// The record of these nodes.
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

    /// Adds or removes a node; writes nothing if nothing changes, as whenever an agent reconnects.
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
        // Applied, not posted: the name is in the request, and the right to create depends on it. Without a node, so
        // that entries of another replica stay.
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

    /// Removes all nodes.
    pub(super) async fn clear(&self) -> kube::Result<()> {
        match self.api.delete(NAME, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
