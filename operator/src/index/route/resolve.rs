//! A route with its references resolved.

use std::collections::BTreeSet;

use ambit_l7::RouteTable;
use ambit_wire::{waypoint as wire, waypoint_route};

use super::{RouteId, RouteRecord, translate};
use crate::gateway::{BackendRef, RequestMirror, Rule};
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
}

impl RefError {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Kind => "InvalidKind",
            Self::NotPermitted => "RefNotPermitted",
            Self::NotFound => "BackendNotFound",
        }
    }
}

/// What is sent of a route, and what is wrong with it.
pub(in crate::index) struct Resolved {
    pub(in crate::index) route: wire::Route,
    /// Services that it sends requests to.
    pub(in crate::index) backends: BTreeSet<Key>,
    /// References that are not valid: why, and in words.
    pub(super) unresolved: Vec<(RefError, String)>,
    /// Rules that cannot be honoured, by place: why.
    pub(super) invalid: Vec<(usize, String)>,
    /// Rules that can never be reached, each with one that comes before it.
    pub(super) shadowed: Vec<(usize, usize)>,
}

impl Index {
    /// A route with its references resolved; `None` if there is no such route.
    pub(in crate::index) fn resolve_route(&self, id: &RouteId) -> Option<Resolved> {
        let record = self.routes.records.get(id)?;
        let mut resolver = Resolver {
            index: self,
            id,
            backends: BTreeSet::new(),
            unresolved: Vec::new(),
            invalid: Vec::new(),
        };
        let route = resolver.route(record);
        // What the waypoint will find when it compiles the route.
        let compiled = waypoint_route::spec(route.clone()).map(|spec| RouteTable::compile(&[spec]));
        match &compiled {
            Ok(table) => resolver.invalid.extend(table.errors().iter().map(|error| {
                let (rule, field) = (error.rule.index, &error.field);
                (rule, format!("spec.rules[{rule}].{field}: {}", error.reason))
            })),
            Err(error) => resolver.invalid.push((0, error.to_string())),
        }
        let shadowed = compiled.iter().flat_map(|table| table.shadowed());
        Some(Resolved {
            shadowed: shadowed.map(|s| (s.rule.index, s.by.index)).collect(),
            route,
            backends: resolver.backends,
            unresolved: resolver.unresolved,
            invalid: resolver.invalid,
        })
    }
}

struct Resolver<'a> {
    index: &'a Index,
    id: &'a RouteId,
    backends: BTreeSet<Key>,
    unresolved: Vec<(RefError, String)>,
    invalid: Vec<(usize, String)>,
}

impl Resolver<'_> {
    fn route(&mut self, record: &RouteRecord) -> wire::Route {
        let rules = record.spec.rules.iter().enumerate();
        wire::Route {
            kind: self.id.kind.to_owned(),
            namespace: self.id.key.namespace.clone(),
            name: self.id.key.name.clone(),
            rules: rules.map(|(n, rule)| self.rule(n, rule)).collect(),
            requires: Vec::new(),
        }
    }

    fn rule(&mut self, n: usize, rule: &Rule) -> wire::RouteRule {
        let field = format!("spec.rules[{n}]");
        let translated = self.translated(rule, &field);
        translated.unwrap_or_else(|error| {
            self.invalid.push((n, error.clone()));
            wire::RouteRule {
                // Requests that match it are not to fall through to others.
                matches: translate::matches_of_invalid(rule),
                invalid: error,
                ..wire::RouteRule::default()
            }
        })
    }

    fn translated(&mut self, rule: &Rule, field: &str) -> Result<wire::RouteRule, String> {
        let mut translated = translate::rule(rule, field, &mut |mirror, field| self.mirror(mirror, field))?;
        for (n, reference) in rule.backend_refs.iter().enumerate() {
            let field = format!("{field}.backendRefs[{n}]");
            let mut mirrors = |mirror: &RequestMirror, field: &str| self.mirror(mirror, field);
            let mut backend = translate::backend(reference, &field, &mut mirrors)?;
            match self.backend(reference, &field) {
                Ok((name, port)) => (backend.backend, backend.port) = (name, port),
                Err(error) => backend.invalid = error,
            }
            translated.backends.push(backend);
        }
        Ok(translated)
    }

    fn mirror(&mut self, mirror: &RequestMirror, field: &str) -> Option<wire::Mirror> {
        let (backend, port) = self.backend(&mirror.backend_ref, field).ok()?;
        Some(translate::mirror(mirror, backend, port))
    }

    /// The Backend and port that a reference is to; or why it is not valid.
    fn backend(&mut self, reference: &BackendRef, field: &str) -> Result<(String, u32), String> {
        let found = self.find(reference);
        found.map_err(|(error, text)| {
            let text = format!("{field}: {text}");
            self.unresolved.push((error, text.clone()));
            text
        })
    }

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
        if namespace != own && !self.index.is_granted(self.id.kind, own, &key) {
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
        let Some(port) = port.filter(|port| service.ports.values().any(|p| p.port == *port)) else {
            let named = reference
                .port
                .map_or("no port".to_owned(), |port| port.to_string());
            let text = format!("Service {namespace}/{} has no TCP port {named}", key.name);
            return Err((RefError::NotFound, text));
        };
        let name = build::service_name(&self.index.config, &key);
        self.backends.insert(key);
        Ok((name, port.into()))
    }
}
