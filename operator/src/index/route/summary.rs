//! What became of a route at each Service that it has as a parent.

use std::collections::BTreeSet;

use ambit_wire::workload::AppProtocol;

use super::conflict::Conflict;
use super::resolve::{Check, Resolved};
use super::{Known, RouteId, RouteRecord, ports};
use crate::gateway::ParentRef;
use crate::index::service::PortRecord;
use crate::index::{Index, Key, ServiceRecord};

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCondition {
    /// Its type.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// In one word.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteParentSummary {
    /// The parent, as the route names it.
    pub parent: ParentRef,
    /// What is to be said.
    pub conditions: Vec<RouteCondition>,
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSummary {
    /// The `metadata.generation` that it was made from.
    pub generation: i64,
    /// Parents in the mesh; of others nothing is said.
    pub parents: Vec<RouteParentSummary>,
}

fn condition(kind: &'static str, status: bool, reason: &'static str, message: String) -> RouteCondition {
    RouteCondition {
        kind,
        status,
        reason,
        message,
    }
}

impl Index {
    /// The routes of a namespace.
    pub fn routes_in(&self, namespace: &str) -> Vec<RouteId> {
        self.routes.of_namespace(namespace).cloned().collect()
    }

    /// What became of a route; `None` if there is no such route.
    pub fn route_summary(&self, id: &RouteId) -> Option<RouteSummary> {
        let known = self.routes.known.get(id)?;
        let record = &known.record;
        let resolved = self.resolve_route(id)?;
        let parents = record
            .parents(id)
            .filter(|(_, key)| self.is_enrolled(&key.namespace));
        Some(RouteSummary {
            generation: record.generation,
            parents: parents
                .map(|(parent, key)| RouteParentSummary {
                    parent: parent.clone(),
                    conditions: self.route_conditions(id, known, &resolved, parent, &key),
                })
                .collect(),
        })
    }

    fn route_conditions(
        &self,
        id: &RouteId,
        known: &Known,
        resolved: &Resolved,
        parent: &ParentRef,
        service: &Key,
    ) -> Vec<RouteCondition> {
        let Known { record, check } = known;
        let mut conditions = Vec::new();
        let conflict = self.services.get(service);
        let conflict = conflict.map(|found| self.conflict(id, parent, service, found));
        let conflict = conflict.unwrap_or_default();
        let accepted = self.route_accepted(record, check, parent, service, &conflict);
        let programmed = match accepted.status {
            true if conflict.is_whole() => condition("Programmed", false, "Conflicted", conflict.message()),
            true => self.route_programmed(id, parent, service),
            false => condition("Programmed", false, "NotAccepted", accepted.message.clone()),
        };
        let failure = match id.is_of_connections() {
            true => "of the connections is closed",
            false => "of the requests gets 500",
        };
        let partly = accepted.status && !check.invalid.is_empty();
        conditions.push(accepted);
        conditions.push(match resolved.unresolved.first() {
            None => condition(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "all references are valid".to_owned(),
            ),
            Some((error, _)) => {
                let texts: Vec<&str> = resolved
                    .unresolved
                    .iter()
                    .map(|(_, text)| text.as_str())
                    .collect();
                let message = format!("{}; their share {failure}", texts.join("; "));
                condition("ResolvedRefs", false, error.reason(), message)
            }
        });
        if partly {
            // The API prescribes how it begins.
            let message = format!(
                "Dropped Rule: {}; requests that match these rules get 500",
                invalid(check)
            );
            conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
        }
        conditions.push(programmed);
        conditions
    }

    fn route_accepted(
        &self,
        record: &RouteRecord,
        check: &Check,
        parent: &ParentRef,
        service: &Key,
        conflict: &Conflict,
    ) -> RouteCondition {
        let no_parent = |message| condition("Accepted", false, "NoMatchingParent", message);
        let Some(found) = self.services.get(service) else {
            let (name, namespace) = (&service.name, &service.namespace);
            return no_parent(format!("there is no Service {name} in namespace {namespace}"));
        };
        if self.is_waypoint_service(service) {
            return no_parent(format!("Service {} is a waypoint", service.name));
        }
        if ports(parent, found).is_none() {
            let port = parent.port.map(|port| port.to_string());
            let named = port.or_else(|| parent.section_name.clone()).unwrap_or_default();
            return no_parent(format!("Service {} has no TCP port {named}", service.name));
        }
        let rules = record.spec.rules.len();
        let invalid_rules: BTreeSet<usize> = check.invalid.iter().map(|(rule, _)| *rule).collect();
        if rules > 0 && invalid_rules.len() == rules {
            return condition("Accepted", false, "UnsupportedValue", invalid(check));
        }
        if conflict.excludes() {
            return condition("Accepted", false, "Conflicted", conflict.message());
        }
        let mut message = "the route is valid".to_owned();
        let lost = conflict.message();
        if !lost.is_empty() {
            message += &format!("; {lost}");
        }
        for (rule, by) in &check.shadowed {
            message +=
                &format!("; spec.rules[{rule}] matches nothing, since spec.rules[{by}] comes before it");
        }
        condition("Accepted", true, "Accepted", message)
    }

    fn route_programmed(&self, id: &RouteId, parent: &ParentRef, service: &Key) -> RouteCondition {
        let found = self.services.get(service);
        if let Some(found) = found.filter(|found| !id.is_of_connections() && is_opaque(parent, found)) {
            let name = &service.name;
            let names: Vec<String> = attached(parent, found)
                .map(|port| port.port.to_string())
                .collect();
            let message = format!(
                "connections to port {} of Service {name} pass as they are, since its appProtocol is TCP or TLS: no route for requests applies",
                names.join(", ")
            );
            return condition("Programmed", false, "UnsupportedProtocol", message);
        }
        let plan = self.plans.get(&service.namespace);
        let (status, reason, message) = match plan {
            Some(plan) => plan.routed(service),
            None => (false, "Pending", "the Service is about to be bound".to_owned()),
        };
        condition("Programmed", status, reason, message)
    }
}

/// The ports of a Service that a route is attached to.
fn attached<'a>(parent: &ParentRef, service: &'a ServiceRecord) -> impl Iterator<Item = &'a PortRecord> {
    let only = ports(parent, service).unwrap_or_default();
    let all = service.ports.values();
    all.filter(move |port| only.is_empty() || only.contains(&port.port))
}

/// Whether a waypoint sees no request at any of them.
fn is_opaque(parent: &ParentRef, service: &ServiceRecord) -> bool {
    let mut protocols = attached(parent, service).map(|port| port.protocol).peekable();
    protocols.peek().is_some() && protocols.all(|one| matches!(one, AppProtocol::Tcp | AppProtocol::Tls))
}

fn invalid(check: &Check) -> String {
    let texts: Vec<&str> = check.invalid.iter().map(|(_, text)| text.as_str()).collect();
    texts.join("; ")
}
