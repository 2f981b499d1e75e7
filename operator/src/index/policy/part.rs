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
    /// Those with rules for the Gateway of another namespace whose waypoint the Service uses: a set of their own, so that its owner lets nothing
    /// through that the Service's own policies do not.
    pub(in crate::index) lent: Vec<Key>,
    /// Those of them of which some rule is enforced.
    pub(in crate::index) lent_deciding: Vec<Key>,
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
    /// Of `policies`, each with how far it is from what is asked for: the nearest goes before, then the oldest, then by name. Those that are
    /// `lent` are further away than all.
    pub(in crate::index) fn of(
        policies: &[(&Key, &PolicyInForce, usize)],
        lent: &[(&Key, &PolicyInForce)],
    ) -> Self {
        let lent: Vec<_> = lent.iter().map(|(key, p)| (*key, *p, usize::MAX)).collect();
        let names = |of: &[(&Key, &PolicyInForce, usize)], which: fn(&PolicyInForce) -> bool| {
            let those = of.iter().filter(|(_, p, _)| which(p));
            those.map(|(key, ..)| (*key).clone()).collect()
        };
        let first = |has: fn(&waypoint::Policy) -> bool| {
            let having = policies.iter().chain(&lent).filter(|(_, p, _)| has(&p.policy));
            let first = having.min_by_key(|(key, p, distance)| (*distance, p.created, *key));
            first.map(|(key, ..)| (*key).clone())
        };
        Self {
            authorization: names(policies, PolicyInForce::has_rules),
            deciding: names(policies, PolicyInForce::decides),
            lent: names(&lent, PolicyInForce::has_rules),
            lent_deciding: names(&lent, PolicyInForce::decides),
            others: BTreeSet::new(),
            of_routes: BTreeSet::new(),
            timeout: first(|p| p.timeout.is_some()),
            retry: first(|p| p.retry.is_some()),
        }
    }

    /// All sets of policies with rules.
    pub(in crate::index) fn sets(&self) -> impl Iterator<Item = &Vec<Key>> {
        let own = Some(&self.authorization).filter(|set| !set.is_empty());
        own.into_iter().chain(self.other_sets())
    }

    /// All but the first set, that of the policies of the Service's own namespace.
    pub(in crate::index) fn other_sets(&self) -> impl Iterator<Item = &Vec<Key>> {
        let lent = Some(&self.lent).filter(|set| !set.is_empty());
        lent.into_iter().chain(&self.others).chain(&self.of_routes)
    }

    /// Those that are not other Services'.
    pub(in crate::index) fn own_sets(&self) -> impl Iterator<Item = &Vec<Key>> {
        let own = [&self.authorization, &self.lent].into_iter();
        own.filter(|set| !set.is_empty())
    }

    /// Those of the own sets that are enforced, without policies of which no rule is.
    pub(in crate::index) fn deciding_sets(&self) -> impl Iterator<Item = &Vec<Key>> {
        let own = [&self.deciding, &self.lent_deciding].into_iter();
        own.filter(|set| !set.is_empty())
    }

    /// Whether some rule is enforced.
    pub(in crate::index) fn decides(&self) -> bool {
        self.deciding_sets().next().is_some()
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
