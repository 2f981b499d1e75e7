//! Policies for routes and for rules of routes.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::TargetRef;
use ambit_wire::waypoint as wire;

use super::{RouteId, Routes};
use crate::index::policy::{Part, PolicyInForce};
use crate::index::{Index, Key};

/// The policies for one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct RoutePolicies {
    /// For all of its rules.
    whole: Part,
    /// For rules, by name.
    rules: BTreeMap<String, Part>,
}

impl RoutePolicies {
    /// What the policies say of one rule.
    pub(in crate::index) fn of_rule(&self, name: Option<&str>) -> RulePolicies<'_> {
        RulePolicies {
            rule: name.and_then(|name| self.rules.get(name)),
            route: &self.whole,
        }
    }

    /// Policies that decide, set by set.
    pub(in crate::index) fn deciding(&self) -> impl Iterator<Item = &Vec<Key>> {
        let parts = std::iter::once(&self.whole).chain(self.rules.values());
        parts.map(|part| &part.deciding).filter(|set| !set.is_empty())
    }
}

/// What policies say of the requests of one rule: those for the rule go before those for its route.
#[derive(Clone, Copy, Debug)]
pub(in crate::index) struct RulePolicies<'a> {
    rule: Option<&'a Part>,
    route: &'a Part,
}

impl<'a> RulePolicies<'a> {
    fn parts(self) -> impl Iterator<Item = &'a Part> {
        self.rule.into_iter().chain([self.route])
    }

    /// The policy whose timeouts count.
    pub(in crate::index) fn timeout(self) -> Option<&'a Key> {
        self.parts().find_map(|part| part.timeout.as_ref())
    }

    /// The policy whose retries count.
    pub(in crate::index) fn retry(self) -> Option<&'a Key> {
        self.parts().find_map(|part| part.retry.as_ref())
    }

    /// All policies that it names.
    pub(super) fn names(self) -> impl Iterator<Item = &'a Key> {
        self.parts().flat_map(Part::names)
    }

    /// As waypoints are sent it; `None` where there are no policies.
    pub(super) fn message(self) -> Option<wire::ScopedPolicies> {
        let sets = self.parts().map(|part| &part.authorization);
        let sets = sets.filter(|set| !set.is_empty()).map(|set| wire::RuleSet {
            policies: set.iter().map(Key::to_string).collect(),
        });
        let message = wire::ScopedPolicies {
            authorization: sets.collect(),
            timeout: self.timeout().map(Key::to_string).unwrap_or_default(),
            retry: self.retry().map(Key::to_string).unwrap_or_default(),
        };
        (message != wire::ScopedPolicies::default()).then_some(message)
    }
}

/// What a rule of a route says itself that policies can say, too.
pub(in crate::index) struct RuleFields {
    pub(in crate::index) place: usize,
    pub(in crate::index) name: Option<String>,
    pub(in crate::index) timeouts: bool,
    pub(in crate::index) retry: bool,
}

impl Routes {
    /// The Services that the route that a policy of `namespace` is for has as parents.
    pub(in crate::index) fn parents_of(&self, namespace: &str, target: &TargetRef) -> Vec<Key> {
        let known = self
            .named(namespace, target)
            .and_then(|id| self.known.get_key_value(&id));
        known.map_or_else(Vec::new, |(id, known)| {
            known.record.parents(id).map(|(_, parent)| parent).collect()
        })
    }

    /// The id of the route that a policy of `namespace` is for; `None` if it is for something else, or there is no such route.
    pub(in crate::index) fn named(&self, namespace: &str, target: &TargetRef) -> Option<RouteId> {
        let id = RouteId {
            key: Key::new(namespace, target.name.clone()),
            kind: target.kind.as_str(),
        };
        self.known.contains_key(&id).then_some(id)
    }
}

impl Index {
    /// The names of the rules of the route that a policy of `namespace` is for; `None` if there is no such route.
    pub(in crate::index) fn route_rules(
        &self,
        namespace: &str,
        target: &TargetRef,
    ) -> Option<BTreeSet<&str>> {
        let known = self.routes.known.get(&self.routes.named(namespace, target)?)?;
        Some(known.record.rule_names().collect())
    }

    /// The rules of a route, and what each says itself that policies can say, too.
    pub(in crate::index) fn route_fields(&self, id: &RouteId) -> Vec<RuleFields> {
        let rules = self
            .routes
            .known
            .get(id)
            .map(|known| known.record.spec.rules.iter());
        let rules = rules.into_iter().flatten().enumerate();
        rules
            .map(|(place, rule)| RuleFields {
                place,
                name: rule.name.clone(),
                timeouts: rule.timeouts.is_some(),
                retry: rule.retry.is_some(),
            })
            .collect()
    }

    /// The policies for a route.
    pub(in crate::index) fn route_policies(&self, id: &RouteId) -> RoutePolicies {
        let mut found = RoutePolicies::default();
        let of_route = |policy: &PolicyInForce| {
            let mut targets = policy.targets.iter();
            targets.any(|t| t.kind.as_str() == id.kind && t.name == id.key.name)
        };
        let policies = self.policies_in_force_in(&id.key.namespace);
        let policies: Vec<_> = policies.filter(|(_, policy)| of_route(policy)).collect();
        let (false, Some(known)) = (policies.is_empty(), self.routes.known.get(id)) else {
            return found;
        };
        let part = |section: Option<&str>| {
            let those = policies
                .iter()
                .filter(|(_, p)| p.targets(id.kind, &id.key.name, section));
            Part::of(&those.map(|(key, p)| (*key, *p, 0)).collect::<Vec<_>>(), &[])
        };
        found.whole = part(None);
        for name in known.record.rule_names() {
            found.rules.insert(name.to_owned(), part(Some(name)));
        }
        found
    }
}
