//! What became of a policy for a route, or for a rule of one.

use std::collections::BTreeSet;

use ambit_crds::{TargetRef, labels};

use super::{Behind, Judge, list, verdict};
use crate::index::Key;
use crate::index::route::{RouteId, RouteParentSummary, RouteSummary, RuleFields};
use crate::index::waypoint::binding::Binding;
use crate::index::waypoint::guard;
use crate::index::waypoint::summary::{PolicyReason, PolicyVerdict};

impl<'a> Judge<'a> {
    /// The Services that the route has as parents.
    pub(super) fn parents(&self, target: &TargetRef) -> BTreeSet<Key> {
        let parents = self.index.routes.parents_of(&self.record.namespace, target);
        parents.into_iter().collect()
    }

    /// Those of other namespaces, for whose requests the route is a consumer's.
    pub(super) fn foreign(&self, target: &TargetRef) -> Vec<(Key, &'a Binding)> {
        let parents = self.parents(target).into_iter();
        let foreign = parents.filter(|parent| parent.namespace != self.record.namespace);
        let bound = foreign.filter_map(|parent| {
            let binding = self
                .index
                .plans
                .get(&parent.namespace)?
                .services
                .get(&parent.name)?;
            Some((parent, binding))
        });
        bound.collect()
    }

    /// Whether the policy is enforced where the route is attached.
    pub(super) fn route(&self, target: &TargetRef, behind: &Behind<'a>) -> PolicyVerdict {
        let not_attached = |message: String| verdict(false, PolicyReason::RouteNotAttached, message);
        let parents = self.parents(target);
        let id = self.index.routes.named(&self.record.namespace, target);
        let Some((id, summary)) =
            id.and_then(|id| self.index.route_summary(&id).map(|summary| (id, summary)))
        else {
            return not_attached(format!("there is no {target}"));
        };
        if parents.is_empty() {
            return not_attached(format!(
                "{target} has no Service in spec.parentRefs, so no request that a waypoint receives can match it"
            ));
        }
        let at = At::of(&parents, &summary, &self.record.namespace);
        if let Some((service, why)) = at.waiting.first() {
            let message = format!("not yet at Service {}: {why}", self.named(service));
            return verdict(false, PolicyReason::WaypointNotReady, message);
        }
        let left_out: Vec<String> = at
            .left_out
            .iter()
            .map(|(service, why, _)| format!("Service {} ({why})", self.named(service)))
            .collect();
        if at.enforced.is_empty() {
            let reason = at.left_out.first().map(|(.., reason)| *reason);
            let reason = reason.unwrap_or(PolicyReason::RouteNotAttached);
            let message = format!("{target} is in force at no Service: {}", list(&left_out));
            return verdict(false, reason, message);
        }
        let in_force = |name: &str| {
            at.enforced
                .contains(&Key::new(self.record.namespace.clone(), name))
        };
        let own: Behind = behind
            .iter()
            .filter(|(name, _)| in_force(name))
            .copied()
            .collect();
        let foreign = self.foreign(target);
        let mut waypoints: BTreeSet<String> = BTreeSet::new();
        waypoints.extend(
            own.iter()
                .filter_map(|(_, b)| Some(b.in_force.as_ref()?.to_string())),
        );
        waypoints.extend(
            foreign
                .iter()
                .filter_map(|(_, b)| Some(b.in_force.as_ref()?.to_string())),
        );
        let services: Vec<String> = at.enforced.iter().map(|key| self.named(key)).collect();
        let mut notes = self.notes(target, &own, &left_out);
        notes.extend(partly(&summary));
        if self.holds.decides() {
            let unguarded: Vec<String> = foreign
                .iter()
                .filter(|(key, _)| at.enforced.contains(key))
                .map(|(key, _)| format!("Service {}", self.named(key)))
                .collect();
            if !unguarded.is_empty() {
                notes.push(format!(
                    "the pods of {} also accept connections that do not pass it, since they are another namespace's",
                    list(&unguarded)
                ));
            }
            let open = self.open_backends(&id, &parents, &own);
            if !open.is_empty() {
                notes.push(format!(
                    "requests to {} that do not come through the route do not pass it: a policy for them would \
                     be asked in any case",
                    list(&open)
                ));
            }
        }
        let waypoints: Vec<String> = waypoints.into_iter().collect();
        let mut message = format!(
            "waypoint {} enforces it at Service {}",
            waypoints.join(" and "),
            list(&services)
        );
        if !notes.is_empty() {
            message = format!("{message}; {}", notes.join("; "));
        }
        verdict(true, PolicyReason::Programmed, message)
    }

    /// A Service, without its namespace where that is the policy's.
    fn named(&self, service: &Key) -> String {
        match service.namespace == self.record.namespace {
            true => service.name.clone(),
            false => format!("{}/{}", service.namespace, service.name),
        }
    }

    /// Services that the route sends requests to and that can also be called without it: other Services than its parents,
    /// with pods that no guard protects.
    fn open_backends(&self, id: &RouteId, parents: &BTreeSet<Key>, own: &Behind<'a>) -> Vec<String> {
        let Some(resolved) = self.index.resolve_route(id) else {
            return Vec::new();
        };
        let guarded: BTreeSet<&String> = own.iter().flat_map(|(_, b)| &b.guarded).collect();
        let is_open = |service: &Key| {
            let plan = self.index.plans.get(&service.namespace);
            let binding = plan.and_then(|plan| plan.services.get(&service.name));
            let closed = binding.is_some_and(Binding::is_guarded);
            let own = service.namespace == self.record.namespace;
            let mut pods = guard::pods(self.index, service).into_iter();
            !closed && pods.any(|pod| !own || !guarded.contains(&pod.name))
        };
        let backends = resolved
            .backends
            .iter()
            .filter(|service| !parents.contains(service));
        let open = backends.filter(|service| is_open(service));
        open.map(|service| format!("Service {}", self.named(service)))
            .collect()
    }

    /// Parts of the policy that give way to another's, or to the route's own.
    pub(super) fn overridden_at_route(&self, target: &TargetRef) -> Vec<String> {
        let Some(id) = self.index.routes.named(&self.record.namespace, target) else {
            return Vec::new();
        };
        let policies = self.index.route_policies(&id);
        let rules = self.index.route_fields(&id);
        let of_target =
            |rule: &&RuleFields| target.section_name.is_none() || rule.name == target.section_name;
        let rules: Vec<&RuleFields> = rules.iter().filter(of_target).collect();
        let policy = &self.holds.policy;
        let mut notes = Vec::new();
        if policy.timeout.is_some() {
            let other = |name: Option<&str>| policies.of_rule(name).timeout().cloned();
            notes.extend(self.gives_way_at(&rules, "timeouts", |rule| rule.timeouts, other));
        }
        if policy.retry.is_some() {
            let other = |name: Option<&str>| policies.of_rule(name).retry().cloned();
            notes.extend(self.gives_way_at(&rules, "retry", |rule| rule.retry, other));
        }
        notes
    }

    fn gives_way_at(
        &self,
        rules: &[&RuleFields],
        part: &str,
        has: impl Fn(&RuleFields) -> bool,
        applies: impl Fn(Option<&str>) -> Option<Key>,
    ) -> Option<String> {
        rules.iter().find_map(|rule| {
            let place = rule.place;
            if has(rule) {
                return Some(format!(
                    "spec.rules[{place}].{part} of the route has precedence for it"
                ));
            }
            let own = self.sibling(&self.record.name);
            let other = applies(rule.name.as_deref()).filter(|other| *other != own)?;
            Some(format!(
                "at spec.rules[{place}] of the route, {other} has precedence for its {part}"
            ))
        })
    }
}

/// Parents by what became of the route there.
#[derive(Default)]
struct At {
    enforced: BTreeSet<Key>,
    /// With what it waits for.
    waiting: Vec<(Key, String)>,
    /// With the reason.
    left_out: Vec<(Key, String, PolicyReason)>,
}

impl At {
    /// Of a route of `namespace`.
    fn of(parents: &BTreeSet<Key>, summary: &RouteSummary, namespace: &str) -> Self {
        let mut found = Self::default();
        for parent in parents {
            let is = |p: &&RouteParentSummary| {
                let own = p.parent.namespace.as_deref().unwrap_or(namespace);
                own == parent.namespace && p.parent.name == parent.name
            };
            let mut programmed = summary.parents.iter().filter(is).filter_map(|p| {
                let mut conditions = p.conditions.iter();
                conditions.find(|c| c.kind == labels::CONDITION_PROGRAMMED)
            });
            // The same Service may be a parent several times, for some of its ports each.
            let Some(first) = programmed.next() else {
                let why = format!("namespace {} is not in the mesh", parent.namespace);
                found
                    .left_out
                    .push((parent.clone(), why, PolicyReason::NamespaceNotEnrolled));
                continue;
            };
            let failing = std::iter::once(first).chain(programmed).find(|c| !c.status);
            let Some(failing) = failing else {
                found.enforced.insert(parent.clone());
                continue;
            };
            let why = failing.message.clone();
            let reason = match failing.reason {
                "WaypointNotReady" | "Pending" => {
                    found.waiting.push((parent.clone(), why));
                    continue;
                }
                "OptedOut" => PolicyReason::OptedOut,
                "NoVirtualAddress" => PolicyReason::NoVirtualAddress,
                _ => PolicyReason::RouteNotAttached,
            };
            found.left_out.push((parent.clone(), why, reason));
        }
        found
    }
}

/// What a route says of rules that cannot be honoured.
fn partly(summary: &RouteSummary) -> Option<String> {
    let mut conditions = summary.parents.iter().flat_map(|parent| &parent.conditions);
    conditions
        .find(|c| c.kind == "PartiallyInvalid" && c.status)
        .map(|c| c.message.clone())
}
