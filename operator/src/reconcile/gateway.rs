//! Statuses of the Gateways that declare waypoints; GatewayClasses and the XMesh.

mod class;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client};

pub(super) use class::ClassReconciler;
pub(super) use store::GatewayObjects;

use super::conditions::condition;
use super::mesh::count;
use super::status::write_status;
use super::{Objects, ReconcileError};
use crate::gateway::{GROUP, Gateway, GatewayStatus, GatewayStatusAddress, ListenerStatus, RouteGroupKind};
use crate::index::{GatewaySummary, Key, ListenerSummary, RouteCondition, SharedIndex};

/// Writes the statuses of Gateways.
pub(super) struct GatewayReconciler {
    client: Client,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
}

impl GatewayReconciler {
    pub(super) fn new(client: Client, index: Arc<SharedIndex>, objects: Arc<Objects>) -> Self {
        Self {
            client,
            index,
            objects,
        }
    }

    /// One pass over the Gateways of one namespace; `troubles` are problems of its waypoints, by waypoint.
    pub(super) async fn reconcile(
        &self,
        namespace: &str,
        troubles: &BTreeMap<String, String>,
    ) -> Result<(), ReconcileError> {
        let mut result = Ok(());
        for summary in self.index.read(|index| index.gateway_summaries(namespace)) {
            let key = Key::new(namespace, summary.name.clone());
            let Some(gateway) = self.objects.gateway(&key) else {
                continue;
            };
            // Made from another version of it: the right one will follow.
            if gateway.metadata.generation.unwrap_or_default() != summary.generation {
                continue;
            }
            let before = gateway.status.clone().unwrap_or_default();
            let trouble = troubles.get(&summary.name).map(String::as_str);
            let status = status(&before, &summary, trouble);
            if is_written(&before, &status) {
                continue;
            }
            let api: Api<Gateway> = Api::namespaced(self.client.clone(), namespace);
            // A status that cannot be written does not hold up the others.
            result = result.and(write_status(&api, &key, &status).await.map(drop));
        }
        result
    }
}

/// Whether a status has all that is to be written; conditions of others may stand beside it.
fn is_written(before: &GatewayStatus, status: &GatewayStatus) -> bool {
    let has = |condition: &Condition| before.conditions.contains(condition);
    before.addresses == status.addresses
        && before.listeners == status.listeners
        && status.conditions.iter().all(has)
}

fn status(before: &GatewayStatus, summary: &GatewaySummary, trouble: Option<&str>) -> GatewayStatus {
    let addresses = summary.addresses.iter().map(|address| GatewayStatusAddress {
        r#type: Some("IPAddress".to_owned()),
        value: address.to_string(),
    });
    let listeners = summary.listeners.iter().map(|listener| {
        let same = before.listeners.iter().find(|l| l.name == listener.name);
        let before = same.map(|l| l.conditions.as_slice()).unwrap_or_default();
        listener_status(listener, summary.generation, trouble, before)
    });
    GatewayStatus {
        addresses: addresses.collect(),
        conditions: conditions(
            &summary.conditions,
            summary.generation,
            trouble,
            &before.conditions,
        ),
        listeners: listeners.collect(),
    }
}

fn listener_status(
    listener: &ListenerSummary,
    generation: i64,
    trouble: Option<&str>,
    before: &[Condition],
) -> ListenerStatus {
    let kinds = listener.kinds.iter().map(|kind| RouteGroupKind {
        group: Some(GROUP.to_owned()),
        kind: (*kind).to_owned(),
    });
    ListenerStatus {
        name: listener.name.clone(),
        supported_kinds: kinds.collect(),
        attached_routes: count(listener.attached),
        conditions: conditions(&listener.conditions, generation, trouble, before),
    }
}

/// Conditions; with the reason for missing replicas, where the waypoint is not ready.
fn conditions(
    all: &[RouteCondition],
    generation: i64,
    trouble: Option<&str>,
    before: &[Condition],
) -> Vec<Condition> {
    let of = |c: &RouteCondition| {
        let message = match trouble.filter(|_| c.kind == "Programmed" && c.reason == "Pending") {
            Some(trouble) => format!("{}: {trouble}", c.message),
            None => c.message.clone(),
        };
        condition(c.kind, c.status, c.reason, &message, Some(generation), before)
    };
    all.iter().map(of).collect()
}

#[cfg(test)]
mod tests;
