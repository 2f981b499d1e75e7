//! Routes of the Gateway API with Services as parents: what the index keeps of them, and where they apply.

mod conflict;
mod policies;
mod resolve;
mod summary;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::gateway::{
    BackendRef, GrantSpec, ParentRef, Route, RouteKind, RouteSpec, TcpRouteKind, TlsRouteKind,
};

use super::{Index, Key, ServiceRecord};
use conflict::Loss;
use resolve::Check;

pub(super) use policies::RuleFields;
pub use summary::{RouteCondition, RouteParentSummary, RouteSummary};

/// A route: its kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    /// Namespace and name.
    pub key: Key,
    /// Its kind, as the API names it.
    pub kind: &'static str,
}

impl RouteId {
    /// The id of a route of this kind.
    pub fn new<K: RouteKind>(key: &Key) -> Self {
        Self {
            key: key.clone(),
            kind: K::KIND,
        }
    }

    /// Whether it routes connections, not requests.
    pub(super) fn is_of_connections(&self) -> bool {
        matches!(self.kind, TcpRouteKind::KIND | TlsRouteKind::KIND)
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.key.namespace, self.key.name)
    }
}

/// What the index keeps of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRecord {
    pub(super) generation: i64,
    /// Seconds since the epoch.
    pub(super) created: i64,
    pub(super) spec: RouteSpec,
}

impl RouteRecord {
    /// The record of a route.
    pub fn of<K: RouteKind>(route: &Route<K>) -> Self {
        let meta = &route.metadata;
        Self {
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            spec: route.spec.clone(),
        }
    }

    /// The Services that it has as parents.
    fn parents<'a>(&'a self, route: &'a RouteId) -> impl Iterator<Item = (&'a ParentRef, Key)> {
        let own = &route.key.namespace;
        let parents = self.spec.parent_refs.iter().filter(|p| is_service(p));
        parents.map(move |p| {
            let namespace = p.namespace.as_ref().unwrap_or(own);
            (p, Key::new(namespace.clone(), p.name.clone()))
        })
    }

    /// Names of rules that have one.
    fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.spec.rules.iter().filter_map(|rule| rule.name.as_deref())
    }

    /// What its rules refer to, mirrors included.
    fn references<'a>(&'a self) -> impl Iterator<Item = &'a BackendRef> {
        let of_filters = |filters: &'a [crate::gateway::Filter]| {
            filters
                .iter()
                .filter_map(|f| f.request_mirror.as_ref())
                .map(|m| &m.backend_ref)
        };
        self.spec.rules.iter().flat_map(move |rule| {
            let backends = rule.backend_refs.iter();
            let of_backends = rule.backend_refs.iter().flat_map(move |b| of_filters(&b.filters));
            backends.chain(of_filters(&rule.filters)).chain(of_backends)
        })
    }

    /// Namespaces that it refers to.
    fn referred<'a>(&'a self, route: &'a RouteId) -> BTreeSet<&'a str> {
        let own = &route.key.namespace;
        self.references()
            .map(|r| r.namespace.as_ref().unwrap_or(own).as_str())
            .collect()
    }
}

fn is_service(parent: &ParentRef) -> bool {
    parent.kind.as_deref() == Some("Service") && parent.group.as_deref().is_some_and(str::is_empty)
}

/// A route that applies to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) route: RouteId,
    /// None: all of them.
    pub(super) ports: BTreeSet<u16>,
    /// It is a consumer's: for callers in this namespace only.
    pub(super) consumers: Option<String>,
}

/// Ports of a Service that a parent reference is about; none: all of them. `None` if there is no such port.
fn ports(parent: &ParentRef, service: &ServiceRecord) -> Option<BTreeSet<u16>> {
    if parent.port.is_none() && parent.section_name.is_none() {
        return Some(BTreeSet::new());
    }
    let matching = service.ports.iter().filter(|(name, port)| {
        let number = parent.port.is_none_or(|p| p == i64::from(port.port));
        let section = parent.section_name.as_ref();
        number && section.is_none_or(|s| s == *name)
    });
    let found: BTreeSet<u16> = matching.map(|(_, port)| port.port).collect();
    (!found.is_empty()).then_some(found)
}

/// A route, and what is wrong with it by itself.
#[derive(Debug)]
struct Known {
    record: RouteRecord,
    check: Check,
}

/// Routes by what they are about.
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: BTreeMap<RouteId, Known>,
    by_parent: BTreeMap<Key, BTreeSet<RouteId>>,
    /// Namespace that is referred to → namespace of a parent → number of routes.
    dependents: BTreeMap<String, BTreeMap<String, usize>>,
    grants: BTreeMap<Key, GrantSpec>,
}

impl Routes {
    /// Namespaces of Services whose routes refer to a namespace.
    pub(super) fn dependents(&self, namespace: &str) -> impl Iterator<Item = &String> {
        self.dependents
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// Namespaces of the routes that apply to Services of a namespace.
    pub(super) fn namespaces_at<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a String> {
        super::within(&self.by_parent, namespace)
            .flat_map(|(_, routes)| routes)
            .map(|route| &route.key.namespace)
    }

    /// The routes of a namespace.
    pub(super) fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a RouteId> {
        let first = RouteId {
            key: Key::new(namespace, ""),
            kind: "",
        };
        let ids = self.known.range(first..).map(|(id, _)| id);
        ids.take_while(move |id| id.key.namespace == namespace)
    }

    fn depend(&mut self, id: &RouteId, record: &RouteRecord, more: bool) {
        let parents: BTreeSet<Key> = record.parents(id).map(|(_, key)| key).collect();
        for parent in &parents {
            let routes = self.by_parent.entry(parent.clone()).or_default();
            if more {
                routes.insert(id.clone());
            } else {
                routes.remove(id);
            }
            if routes.is_empty() {
                self.by_parent.remove(parent);
            }
        }
        let parents: BTreeSet<&String> = parents.iter().map(|key| &key.namespace).collect();
        for namespace in record.referred(id) {
            let dependents = self.dependents.entry(namespace.to_owned()).or_default();
            for parent in &parents {
                let count = dependents.entry((*parent).clone()).or_default();
                *count = (*count + usize::from(more)).saturating_sub(usize::from(!more));
            }
            dependents.retain(|_, count| *count > 0);
            if dependents.is_empty() {
                self.dependents.remove(namespace);
            }
        }
    }
}

impl Index {
    /// A route as it is now; `None` when it is gone.
    pub fn set_route(&mut self, id: &RouteId, record: Option<RouteRecord>) {
        if self.routes.known.get(id).map(|known| &known.record) == record.as_ref() {
            return;
        }
        let before = self.routes.known.remove(id).map(|known| known.record);
        let namespaces = |record: Option<&RouteRecord>| -> BTreeSet<String> {
            let parents = record.into_iter().flat_map(|r| r.parents(id));
            parents.map(|(_, key)| key.namespace).collect()
        };
        let (had, has) = (namespaces(before.as_ref()), namespaces(record.as_ref()));
        for namespace in had.union(&has) {
            self.count(namespace, had.contains(namespace), has.contains(namespace));
            self.dirty.plans.insert(namespace.clone());
        }
        if let Some(before) = &before {
            self.routes.depend(id, before, false);
        }
        let rules = |record: &RouteRecord| record.rule_names().map(str::to_owned).collect::<Vec<_>>();
        let appeared = record.as_ref().map(rules);
        if appeared.is_some() && appeared != before.as_ref().map(rules) {
            self.target_appeared(id.kind, &id.key);
        }
        if let Some(record) = record {
            self.routes.depend(id, &record, true);
            let check = Check::of(id, &record.spec);
            self.routes.known.insert(id.clone(), Known { record, check });
        }
        self.dirty.routes.insert(id.key.namespace.clone());
    }

    /// A ReferenceGrant as it is now; `None` when it is gone.
    pub fn set_grant(&mut self, key: &Key, grant: Option<GrantSpec>) {
        if self.routes.grants.get(key) == grant.as_ref() {
            return;
        }
        match grant {
            Some(grant) => self.routes.grants.insert(key.clone(), grant),
            None => self.routes.grants.remove(key),
        };
        let dependents: Vec<String> = self.routes.dependents(&key.namespace).cloned().collect();
        self.dirty.plans.extend(dependents);
    }

    /// The routes that apply to a Service, that with precedence first (Gateway API: the oldest, then by namespace and name).
    pub(super) fn attachments(&self, service: &Key, record: &ServiceRecord) -> Vec<Attachment> {
        self.settled(service, record).0
    }

    /// The same, and what routes of connections do not have because of others.
    fn settled(&self, service: &Key, record: &ServiceRecord) -> (Vec<Attachment>, Vec<Loss>) {
        let routes = self.routes.by_parent.get(service).into_iter().flatten();
        let mut found: Vec<(i64, Attachment)> = Vec::new();
        for id in routes {
            let Some(Known { record: route, .. }) = self.routes.known.get(id) else {
                continue;
            };
            let parents = route.parents(id).filter(|(_, key)| key == service);
            for ports in parents.filter_map(|(parent, _)| ports(parent, record)) {
                let attachment = Attachment {
                    route: id.clone(),
                    ports,
                    consumers: (id.key.namespace != service.namespace).then(|| id.key.namespace.clone()),
                };
                found.push((route.created, attachment));
            }
        }
        found.sort_by(|(a, one), (b, other)| (a, &one.route.key).cmp(&(b, &other.route.key)));
        let found = found.into_iter().map(|(_, attachment)| attachment).collect();
        conflict::settle(found, record)
    }

    /// Whether objects of `kind` in the namespace `from` may refer to this Service of another namespace.
    fn is_granted(&self, kind: &str, from: &str, service: &Key) -> bool {
        super::within(&self.routes.grants, &service.namespace).any(|(_, grant)| {
            let from = grant
                .from
                .iter()
                .any(|f| f.group == crate::gateway::GROUP && f.kind == kind && f.namespace == from);
            let to = grant.to.iter().any(|t| {
                t.group.is_empty()
                    && t.kind == "Service"
                    && t.name.as_ref().is_none_or(|name| *name == service.name)
            });
            from && to
        })
    }
}
