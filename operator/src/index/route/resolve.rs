//! A route with its references resolved.

use std::collections::BTreeSet;

use ambit_l7::RouteTable;
use ambit_wire::workload::AppProtocol;
use ambit_wire::{features, waypoint as wire, waypoint_route};

use super::RouteId;
use super::translate::{self, References};
use crate::gateway::{BackendRef, RouteKind, RouteSpec, TlsRouteKind};
use crate::index::{Index, Key, build};

/// Why a reference is not valid, as the API calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefError {
    /// `InvalidKind`
    Kind,
    /// `RefNotPermitted`
    NotPermitted,
    /// `BackendNotFound`
    NotFound,
    /// `UnsupportedProtocol`
    Protocol,
}

impl RefError {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Kind => "InvalidKind",
            Self::NotPermitted => "RefNotPermitted",
            Self::NotFound => "BackendNotFound",
            Self::Protocol => "UnsupportedProtocol",
        }
    }
}

/// What is sent of a route, and what is wrong with its references.
pub(in crate::index) struct Resolved {
    pub(in crate::index) route: wire::Route,
    /// Services that it sends requests to.
    pub(in crate::index) backends: BTreeSet<Key>,
    /// Policies for it.
    pub(in crate::index) policies: BTreeSet<Key>,
    /// References that are not valid: why, and in words.
    pub(super) unresolved: Vec<(RefError, String)>,
}

impl Index {
    /// A route with its references resolved; `None` if there is no such route.
    pub(in crate::index) fn resolve_route(&self, id: &RouteId) -> Option<Resolved> {
        let record = &self.routes.known.get(id)?.record;
        let mut resolver = Resolver {
            index: self,
            id,
            parents: record.parents(id).map(|(_, parent)| parent).collect(),
            backends: BTreeSet::new(),
            unresolved: Vec::new(),
        };
        let rules = record.spec.rules.iter().enumerate();
        let mut rules: Vec<_> = rules
            .map(|(n, rule)| translate::rule(rule, n, &mut resolver))
            .collect();
        let policies = self.route_policies(id);
        let mut named = BTreeSet::new();
        for (message, rule) in rules.iter_mut().zip(&record.spec.rules) {
            let policies = policies.of_rule(rule.name.as_deref());
            message.policies = policies.message();
            named.extend(policies.names().cloned());
        }
        Some(Resolved {
            policies: named,
            route: message(id, &record.spec, rules),
            backends: resolver.backends,
            unresolved: resolver.unresolved,
        })
    }
}

fn message(id: &RouteId, spec: &RouteSpec, rules: Vec<wire::RouteRule>) -> wire::Route {
    // Of other kinds the API says nothing of host names for meshes.
    let by_name = id.kind == TlsRouteKind::KIND;
    let scoped = rules.iter().any(|rule| rule.policies.is_some());
    let requires = [
        id.is_of_connections().then_some(features::CONNECTION_ROUTES),
        scoped.then_some(features::SCOPED_POLICIES),
    ];
    wire::Route {
        kind: id.kind.to_owned(),
        namespace: id.key.namespace.clone(),
        name: id.key.name.clone(),
        rules,
        requires: requires.into_iter().flatten().map(str::to_owned).collect(),
        hostnames: spec.hostnames.iter().filter(|_| by_name).cloned().collect(),
    }
}

/// What is wrong with the values of a route, whatever it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    /// Rules that cannot be honoured, by place: why.
    pub(super) invalid: Vec<(usize, String)>,
    /// Rules that can never be reached, each with one that comes before it.
    pub(super) shadowed: Vec<(usize, usize)>,
}

/// Every reference is valid.
struct Anything;

impl References for Anything {
    fn backend(&mut self, _: &BackendRef, _: &str) -> Result<(String, u32), String> {
        Ok(("any".to_owned(), 1))
    }
}

impl Check {
    /// Finds what a waypoint finds when it compiles the route.
    pub(super) fn of(id: &RouteId, spec: &RouteSpec) -> Self {
        let rules = spec.rules.iter().enumerate();
        let rules: Vec<_> = rules
            .map(|(n, rule)| translate::rule(rule, n, &mut Anything))
            .collect();
        let unsupported = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| !rule.invalid.is_empty());
        let mut check = Self {
            invalid: unsupported.map(|(n, rule)| (n, rule.invalid.clone())).collect(),
            shadowed: Vec::new(),
        };
        match waypoint_route::spec(message(id, spec, rules)) {
            Ok(spec) => {
                let table = RouteTable::compile(&[spec]);
                let known: BTreeSet<usize> = check.invalid.iter().map(|(rule, _)| *rule).collect();
                let errors = table.errors().iter().filter(|e| !known.contains(&e.rule.index));
                check.invalid.extend(errors.map(|error| {
                    let rule = error.rule.index;
                    (
                        rule,
                        format!("spec.rules[{rule}].{}: {}", error.field, error.reason),
                    )
                }));
                check.shadowed = table
                    .shadowed()
                    .iter()
                    .map(|s| (s.rule.index, s.by.index))
                    .collect();
            }
            // Numbers that the API's own definition refuses.
            Err(error) => check
                .invalid
                .extend((0..spec.rules.len()).map(|n| (n, error.to_string()))),
        }
        check
    }
}

struct Resolver<'a> {
    index: &'a Index,
    id: &'a RouteId,
    /// Callers of these send their requests there without a route, too: a consumer's route needs no grant for them.
    parents: BTreeSet<Key>,
    backends: BTreeSet<Key>,
    unresolved: Vec<(RefError, String)>,
}

impl References for Resolver<'_> {
    fn backend(&mut self, reference: &BackendRef, field: &str) -> Result<(String, u32), String> {
        self.find(reference).map_err(|(error, text)| {
            let text = format!("{field}: {text}");
            self.unresolved.push((error, text.clone()));
            text
        })
    }
}

impl Resolver<'_> {
    fn find(&mut self, reference: &BackendRef) -> Result<(String, u32), (RefError, String)> {
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let group = reference.group.as_deref().unwrap_or_default();
        if !group.is_empty() || kind != "Service" {
            let text = format!("kind {kind:?} of group {group:?} is not supported, only Service is");
            return Err((RefError::Kind, text));
        }
        let own = &self.id.key.namespace;
        let namespace = reference.namespace.as_ref().unwrap_or(own);
        let key = Key::new(namespace.clone(), reference.name.clone());
        let granted = || self.parents.contains(&key) || self.index.is_granted(self.id.kind, own, &key);
        if namespace != own && !granted() {
            let text = format!(
                "no ReferenceGrant in namespace {namespace} lets a {} of {own} refer to Service {}",
                self.id.kind, key.name
            );
            return Err((RefError::NotPermitted, text));
        }
        let missing = || format!("there is no Service {} in namespace {namespace}", key.name);
        let service = self.index.services.get(&key);
        let service = service.filter(|_| !self.index.is_waypoint_service(&key));
        let service = service.ok_or_else(|| (RefError::NotFound, missing()))?;
        let port = reference.port.and_then(|port| u16::try_from(port).ok());
        let found = port.and_then(|port| service.ports.values().find(|p| p.port == port));
        let Some(found) = found else {
            let named = reference
                .port
                .map_or("no port".to_owned(), |port| port.to_string());
            let text = format!("Service {namespace}/{} has no TCP port {named}", key.name);
            return Err((RefError::NotFound, text));
        };
        let port = found.port;
        if found.protocol == AppProtocol::Tls && !self.id.is_of_connections() {
            let text = format!(
                "port {port} of Service {namespace}/{} has TLS by its appProtocol, and a waypoint sends HTTP in clear",
                key.name
            );
            return Err((RefError::Protocol, text));
        }
        let name = build::service_name(&self.index.config, &key);
        self.backends.insert(key);
        Ok((name, port.into()))
    }
}
