//! The statuses of routes: what became of each at the Services that it has as parents. Entries of other controllers are
//! kept as they are.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::debug;

use super::conditions::condition;
use super::{Objects, ReconcileError, is_conflict, is_not_found};
use crate::gateway::{
    CONTROLLER, GrpcRouteKind, HttpRouteKind, Route, RouteKind, RouteParentStatus, TcpRouteKind, TlsRouteKind,
};
use crate::index::{Key, RouteId, RouteParentSummary, RouteSummary, SharedIndex};

/// The parts of a route that its status depends on.
#[derive(Clone, Debug)]
pub(super) struct RouteObject {
    generation: i64,
    resource_version: Option<String>,
    parents: Vec<RouteParentStatus>,
}

impl RouteObject {
    pub(super) fn of<K: RouteKind>(route: Route<K>) -> Self {
        Self {
            generation: route.metadata.generation.unwrap_or_default(),
            resource_version: route.metadata.resource_version,
            parents: route.status.parents,
        }
    }
}

/// Writes the statuses of routes.
pub(super) struct RouteReconciler {
    client: Client,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
}

impl RouteReconciler {
    pub(super) fn new(client: Client, index: Arc<SharedIndex>, objects: Arc<Objects>) -> Self {
        Self {
            client,
            index,
            objects,
        }
    }

    /// One pass over the routes of one namespace.
    pub(super) async fn reconcile(&self, namespace: &str) -> Result<(), ReconcileError> {
        let mut result = Ok(());
        for id in self.index.read(|index| index.routes_in(namespace)) {
            let summary = self.index.read(|index| index.route_summary(&id));
            let (Some(summary), Some(route)) = (summary, self.objects.route(&id)) else {
                continue;
            };
            // A status that cannot be written does not hold up the others.
            result = result.and(self.write(&id, &route, &summary).await);
        }
        result
    }

    async fn write(
        &self,
        id: &RouteId,
        route: &RouteObject,
        summary: &RouteSummary,
    ) -> Result<(), ReconcileError> {
        // Made from another version of it: the right one will follow.
        if route.generation != summary.generation {
            return Ok(());
        }
        let parents = parents(route, summary);
        if parents == route.parents {
            return Ok(());
        }
        // The list is replaced as a whole: only if nobody else has written to it meanwhile.
        let patch = json!({
            "metadata": {"resourceVersion": route.resource_version},
            "status": {"parents": parents},
        });
        let written = match id.kind {
            GrpcRouteKind::KIND => self.patch::<GrpcRouteKind>(&id.key, &patch).await,
            TcpRouteKind::KIND => self.patch::<TcpRouteKind>(&id.key, &patch).await,
            TlsRouteKind::KIND => self.patch::<TlsRouteKind>(&id.key, &patch).await,
            _ => self.patch::<HttpRouteKind>(&id.key, &patch).await,
        };
        match written {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => {
                debug!(route = %id, %error, "the watch has yet to show the latest version");
                Ok(())
            }
            Err(error) => Err(ReconcileError::api(format!("status of {id}"))(error)),
        }
    }
}

impl RouteReconciler {
    async fn patch<K: RouteKind>(&self, key: &Key, patch: &Value) -> kube::Result<()> {
        let api: Api<Route<K>> = Api::namespaced(self.client.clone(), &key.namespace);
        let parameters = PatchParams::default();
        api.patch_status(&key.name, &parameters, &Patch::Merge(patch))
            .await
            .map(drop)
    }
}

/// The whole list: the entries of others, in their places, and those of this controller.
fn parents(route: &RouteObject, summary: &RouteSummary) -> Vec<RouteParentStatus> {
    let (ours, mut others): (Vec<_>, Vec<_>) = route
        .parents
        .iter()
        .cloned()
        .partition(|p| p.controller_name == CONTROLLER);
    let own = summary.parents.iter().map(|parent| {
        let reference = serde_json::to_value(&parent.parent).unwrap_or_default();
        let before = ours.iter().find(|p| p.parent_ref == reference);
        let before = before.map(|p| p.conditions.as_slice()).unwrap_or_default();
        RouteParentStatus {
            conditions: conditions(parent, summary.generation, before),
            parent_ref: reference,
            controller_name: CONTROLLER.to_owned(),
        }
    });
    others.extend(own);
    others
}

fn conditions(parent: &RouteParentSummary, generation: i64, before: &[Condition]) -> Vec<Condition> {
    let all = parent.conditions.iter();
    all.map(|c| condition(c.kind, c.status, c.reason, &c.message, Some(generation), before))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::HttpRoute;
    use crate::index::RouteCondition;

    fn object(parents: Value) -> RouteObject {
        let route: HttpRoute = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 3},
            "spec": {}, "status": {"parents": parents},
        }))
        .unwrap();
        RouteObject::of(route)
    }

    fn summary(status: bool) -> RouteSummary {
        let parent = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
        RouteSummary {
            generation: 3,
            parents: vec![RouteParentSummary {
                parent: serde_json::from_value(parent).unwrap(),
                conditions: vec![RouteCondition {
                    kind: "Accepted",
                    status,
                    reason: "Accepted",
                    message: String::new(),
                }],
            }],
        }
    }

    #[test]
    fn entries_of_others_stay_and_conditions_keep_their_time() {
        let foreign = json!({
            "parentRef": {"name": "gateway", "later": true}, "controllerName": "other/controller",
            "conditions": [],
        });
        let first = parents(&object(json!([foreign])), &summary(true));
        assert_eq!(serde_json::to_value(&first[0]).unwrap(), foreign);
        assert_eq!(first[1].parent_ref["port"], 80);
        assert_eq!(first[1].conditions[0].observed_generation, Some(3));

        let mut written = serde_json::to_value(&first).unwrap();
        written[1]["conditions"][0]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        let time = |of: &[RouteParentStatus]| of[1].conditions[0].last_transition_time.clone();
        let same = parents(&object(written.clone()), &summary(true));
        assert_eq!(serde_json::to_value(&same).unwrap(), written);
        let other = parents(&object(written), &summary(false));
        assert_ne!(time(&other), time(&same));

        // A parent that is no longer one.
        let mut gone = summary(true);
        gone.parents.clear();
        let left = parents(&object(serde_json::to_value(&same).unwrap()), &gone);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].controller_name, "other/controller");
    }
}
