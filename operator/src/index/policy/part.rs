//! The policies for a part of the requests to Services, and which of them go before others.

use std::collections::BTreeSet;

use ambit_wire::waypoint;

use super::PolicyInForce;
use crate::index::Key;

/// The policies with one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Part {
    /// Those with rules.
    pub(in crate::index) authorization: Vec<Key>,
    /// Those of which some rule is enforced, not only reported.
    pub(in crate::index) deciding: Vec<Key>,
    /// Deciding policies of other Services that lead to the same pods, set by set: each set has to let a request through too.
    pub(in crate::index) others: BTreeSet<Vec<Key>>,
    /// The same of routes of these Services. They do not hold for what a route of the namespace sends here: these are chosen by who may
    /// write its routes.
    pub(in crate::index) of_routes: BTreeSet<Vec<Key>>,
    /// The one whose timeouts count.
    pub(in crate::index) timeout: Option<Key>,
    /// The one whose retries count.
    pub(in crate::index) retry: Option<Key>,
}

impl Part {
    /// Of `policies`, each with how far it is from what is asked for: the nearest goes before, then the oldest, then by name.
    pub(in crate::index) fn of(policies: &[(&Key, &PolicyInForce, usize)]) -> Self {
        let names = |which: fn(&PolicyInForce) -> bool| {
            let those = policies.iter().filter(|(_, p, _)| which(p));
            those.map(|(key, ..)| (*key).clone()).collect()
        };
        let first = |has: fn(&waypoint::Policy) -> bool| {
            let having = policies.iter().filter(|(_, p, _)| has(&p.policy));
            let first = having.min_by_key(|(key, p, distance)| (*distance, p.created, *key));
            first.map(|(key, ..)| (*key).clone())
        };
        Self {
            authorization: names(PolicyInForce::has_rules),
            deciding: names(PolicyInForce::decides),
            others: BTreeSet::new(),
            of_routes: BTreeSet::new(),
            timeout: first(|p| p.timeout.is_some()),
            retry: first(|p| p.retry.is_some()),
        }
    }

    /// All sets of policies with rules.
    pub(in crate::index) fn sets(&self) -> impl Iterator<Item = &Vec<Key>> {
        let own = Some(&self.authorization).filter(|set| !set.is_empty());
        own.into_iter().chain(&self.others).chain(&self.of_routes)
    }

    /// All policies that it names.
    pub(in crate::index) fn names(&self) -> impl Iterator<Item = &Key> {
        let rules = self.sets().flatten();
        rules.chain(&self.timeout).chain(&self.retry)
    }

    /// Whether it says nothing.
    pub(in crate::index) fn is_empty(&self) -> bool {
        self.names().next().is_none()
    }
}
