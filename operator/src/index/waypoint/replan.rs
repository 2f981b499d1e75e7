//! What changes when a namespace's plan does.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{self, Plan};
use crate::index::state::{Dirty, Update};
use crate::index::{Index, Key};

impl Index {
    /// Makes the plans anew of the namespaces that were touched and have to do with waypoints. What follows from a change of plan is
    /// marked in `dirty` or goes into `authorizations` and `update`. Those namespaces are returned.
    pub(in crate::index) fn replan(
        &mut self,
        dirty: &mut Dirty,
        authorizations: &mut BTreeMap<String, Option<Vec<u8>>>,
        update: &mut Update,
    ) -> BTreeSet<String> {
        let keys = dirty.pods.iter().chain(&dirty.services).chain(&dirty.slices);
        let mut touched: BTreeSet<String> = BTreeSet::new();
        for namespace in keys.map(|key| &key.namespace).chain(&dirty.namespaces) {
            if !touched.contains(namespace) && self.concerns_waypoints(namespace) {
                touched.insert(namespace.clone());
            }
        }
        // What a route refers to is sent to the waypoints of its parents.
        let keys = dirty.pods.iter().chain(&dirty.services).chain(&dirty.slices);
        let namespaces = keys
            .map(|key| &key.namespace)
            .chain(&dirty.namespaces)
            .chain(&dirty.plans);
        let mut dependents = BTreeSet::new();
        for namespace in namespaces {
            dependents.extend(self.routes.dependents(namespace).cloned());
        }
        touched.extend(dependents);
        // A Gateway, its policies, or whether there is a waypoint at all decide of Services of other namespaces.
        for lender in dirty.plans.iter().chain(&dirty.namespaces) {
            touched.extend(self.borrowers.get(lender).into_iter().flatten().cloned());
        }
        let plans = std::mem::take(&mut dirty.plans);
        touched.extend(plans.into_iter().filter(|n| self.concerns_waypoints(n)));
        let mut again = BTreeSet::new();
        let mut lenders = BTreeSet::new();
        for namespace in &touched {
            let change = self.remake(namespace, dirty, authorizations, update);
            if change.waypoints {
                again.extend(self.borrowers.get(namespace).into_iter().flatten().cloned());
            }
            lenders.extend(change.lenders);
        }
        // Of another namespace's waypoint a plan takes over what is known of it there, which depends on no plan but that one.
        for namespace in &again {
            lenders.extend(self.remake(namespace, dirty, authorizations, update).lenders);
        }
        touched.extend(again);
        // A Backend that waypoints elsewhere are sent has the policies of its namespace's plan.
        let namespaces = touched.iter();
        let dependents: Vec<String> = namespaces
            .flat_map(|namespace| self.routes.dependents(namespace).cloned())
            .collect();
        touched.extend(dependents);
        touched.extend(lenders);
        touched
    }

    /// Makes one plan anew.
    fn remake(
        &mut self,
        namespace: &str,
        dirty: &mut Dirty,
        authorizations: &mut BTreeMap<String, Option<Vec<u8>>>,
        update: &mut Update,
    ) -> Change {
        let before = self.plans.remove(namespace).unwrap_or_default();
        let (after, timers) = plan::make(self, namespace, &before);
        if let Some(latest) = timers.last() {
            self.timer = latest.number;
        }
        update.timers.extend(timers);
        spread(namespace, &before, &after, dirty, authorizations);
        for lender in before.lenders.difference(&after.lenders) {
            if let Some(borrowers) = self.borrowers.get_mut(lender) {
                borrowers.remove(namespace);
            }
        }
        self.borrowers.retain(|_, borrowers| !borrowers.is_empty());
        for lender in &after.lenders {
            let borrowers = self.borrowers.entry(lender.clone()).or_default();
            borrowers.insert(namespace.to_owned());
        }
        let lent = |plan: &Plan| -> Vec<_> {
            let own = plan.own(namespace);
            own.map(|(key, w)| (key.clone(), w.wanted, w.proven, w.bound, w.obstacle.clone()))
                .collect()
        };
        let change = Change {
            waypoints: lent(&before) != lent(&after),
            lenders: before.lenders.union(&after.lenders).cloned().collect(),
        };
        if self.asks_for_waypoints(namespace) || !after.is_idle() {
            self.plans.insert(namespace.to_owned(), after);
        }
        change
    }

    /// Whether anything in the namespace has to do with waypoints, or had when it was last looked at.
    fn concerns_waypoints(&self, namespace: &str) -> bool {
        self.plans.contains_key(namespace) || self.asks_for_waypoints(namespace)
    }

    fn asks_for_waypoints(&self, namespace: &str) -> bool {
        let labels = self.waypoint_labels.get(namespace);
        self.waypoint_records.contains_key(namespace) || labels.is_some_and(|l| l.use_waypoint.is_some())
    }
}

/// What a new plan means for others.
struct Change {
    /// Its own waypoints are others, or in another state.
    waypoints: bool,
    /// Namespaces whose waypoints are sent something of it, or were until now.
    lenders: BTreeSet<String>,
}

impl Plan {
    /// Whether it says no more than no plan would.
    fn is_idle(&self) -> bool {
        self.waypoints.is_empty()
    }
}

/// Marks what depends on what differs.
fn spread(
    namespace: &str,
    before: &Plan,
    after: &Plan,
    dirty: &mut Dirty,
    authorizations: &mut BTreeMap<String, Option<Vec<u8>>>,
) {
    let in_force = |plan: &Plan, name: &str| plan.services.get(name).and_then(|b| b.in_force.clone());
    for name in before.services.keys().chain(after.services.keys()) {
        if in_force(before, name) != in_force(after, name) {
            dirty.services.insert(Key::new(namespace, name.clone()));
        }
    }
    for name in before.pods.keys().chain(after.pods.keys()) {
        if before.pods.get(name) != after.pods.get(name) {
            dirty.pods.insert(Key::new(namespace, name.clone()));
        }
    }
    for name in before.guards.keys().chain(after.guards.keys()) {
        let guard = after.guards.get(name);
        if before.guards.get(name) != guard {
            authorizations.insert(format!("{namespace}/{name}"), guard.cloned());
        }
    }
    // Rules let the waypoints through.
    if !before.made().eq(after.made()) {
        dirty.namespaces.insert(namespace.to_owned());
    }
}
