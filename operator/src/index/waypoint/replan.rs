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
        let plans = std::mem::take(&mut dirty.plans);
        touched.extend(plans.into_iter().filter(|n| self.concerns_waypoints(n)));
        for namespace in &touched {
            let before = self.plans.remove(namespace).unwrap_or_default();
            let (after, timers) = plan::make(self, namespace, &before);
            if let Some(latest) = timers.last() {
                self.timer = latest.number;
            }
            update.timers.extend(timers);
            spread(namespace, &before, &after, dirty, authorizations);
            if self.asks_for_waypoints(namespace) || !after.is_idle() {
                self.plans.insert(namespace.clone(), after);
            }
        }
        touched
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
