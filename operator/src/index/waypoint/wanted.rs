//! Which waypoints a namespace's plan knows, and what each of them serves of the namespace.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::labels;

use super::plan::{Lingering, Maker, Plan, Waypoint};
use super::timer::LINGER;
use crate::index::Key;

impl Maker<'_> {
    /// The waypoints that are asked for, those in the register, and those of other namespaces.
    pub(super) fn waypoints(&self, plan: &mut Plan, workloads: &BTreeMap<String, String>) {
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let asked = plan.services.values().filter_map(|b| b.asked.waypoint());
        let (own, foreign): (Vec<&Key>, Vec<&Key>) = asked.partition(|w| w.namespace == self.namespace);
        let foreign: BTreeSet<Key> = foreign.into_iter().cloned().collect();
        if self.enrolled {
            wanted.extend(self.declared.keys().map(|name| (*name).to_owned()));
            wanted.extend(own.into_iter().map(|w| w.name.clone()));
            wanted.extend(workloads.values().cloned());
            // Before its first Service or pod too.
            let anyhow = |name: &str| {
                let waypoint_for = self.waypoint_for(name);
                let first = plan.services.is_empty() || self.labels.use_waypoint.is_some();
                waypoint_for.workloads() || first && waypoint_for.services()
            };
            wanted.extend(self.default_waypoint().filter(|name| anyhow(name)));
        }
        let registered = self.index.registered_in(self.namespace).map(|(key, entry)| {
            let waypoint = Waypoint {
                proven: entry.is_proven(),
                service: self.index.is_waypoint_service(key),
                // Its Service may have been deleted by hand: that opens nothing.
                bound: entry.bound,
                ..Waypoint::default()
            };
            (key.clone(), waypoint)
        });
        plan.waypoints = registered.collect();
        for name in wanted {
            let key = Key::new(self.namespace, name);
            // A Service that says that it is the operator's is replaced.
            let service = self.index.services.get(&key);
            let taken = plan.services.contains_key(&key.name) && service.is_some_and(|s| !s.claims);
            let obstacle = obstacle(&key.name, taken);
            let waypoint = plan.waypoints.entry(key).or_default();
            waypoint.wanted = true;
            waypoint.obstacle = obstacle;
        }
        for (key, waypoint) in &mut plan.waypoints {
            waypoint.waypoint_for = self.waypoint_for(&key.name);
            waypoint.workload_authorization = self.workload_authorization(&key.name);
        }
        let before = self.before.waypoints.iter();
        let left = before.filter(|(key, w)| {
            key.namespace != self.namespace && (!w.served.is_empty() || !w.lingering.is_empty())
        });
        let left = left.map(|(key, _)| key.clone());
        let named = self.named();
        plan.lenders = named.iter().map(|waypoint| waypoint.namespace.clone()).collect();
        // Of one that drains, a control plane that has just started does not know what it served.
        let draining = named.into_iter().filter(|w| self.lent(w).is_draining());
        let lent: BTreeSet<Key> = foreign.into_iter().chain(left).chain(draining).collect();
        for key in lent {
            plan.lenders.insert(key.namespace.clone());
            plan.waypoints.insert(key.clone(), self.lent(&key));
        }
    }

    /// What its own namespace's plan has of a waypoint.
    fn lent(&self, waypoint: &Key) -> Waypoint {
        let plan = self.index.plans.get(&waypoint.namespace);
        let of_plan = plan.and_then(|plan| plan.waypoints.get(waypoint));
        of_plan.map_or_else(Waypoint::default, |w| Waypoint {
            wanted: w.wanted,
            proven: w.proven,
            bound: w.bound,
            obstacle: w.obstacle.clone(),
            ..Waypoint::default()
        })
    }

    /// Waypoints of other namespaces that labels name, whether Services may use them or not.
    fn named(&self) -> BTreeSet<Key> {
        let services = self.index.services_in(self.namespace);
        let of_services = services.filter_map(|(_, record)| record.use_waypoint.as_ref());
        let uses = of_services.chain(&self.labels.use_waypoint);
        let named = uses.filter_map(|uses| uses.waypoint(self.namespace));
        named.filter(|w| w.namespace != self.namespace).collect()
    }

    /// What each waypoint is sent, what has just left it included.
    pub(super) fn serve(&mut self, plan: &mut Plan) {
        for (key, waypoint) in &mut plan.waypoints {
            let before = self.before.waypoints.get(key);
            waypoint.lingering = before.map(|w| w.lingering.clone()).unwrap_or_default();
            for (service, binding) in &plan.services {
                let asked = self.enrolled && waypoint.wanted && binding.asked.waypoint() == Some(key);
                if asked || binding.in_force.as_ref() == Some(key) {
                    waypoint.lingering.remove(service);
                    waypoint.served.insert(service.clone());
                    continue;
                }
                let before = self.before.services.get(service);
                if before.is_some_and(|b| b.in_force.as_ref() == Some(key)) {
                    let lingering = Lingering {
                        timer: self.start(service, key, LINGER),
                        over: false,
                        served: true,
                    };
                    waypoint.lingering.insert(service.clone(), lingering);
                }
            }
            // One that is not wanted drains: it keeps what it has until its Service is gone.
            let draining = waypoint.is_draining();
            waypoint.lingering.retain(|service, lingering| {
                if lingering.over && lingering.served && !draining {
                    *lingering = Lingering {
                        timer: self.start(service, key, self.index.drain_deadline()),
                        over: false,
                        served: false,
                    };
                }
                (!lingering.over || draining) && plan.services.contains_key(service)
            });
            let lingering = waypoint.lingering.iter().filter(|(_, l)| l.served);
            waypoint
                .served
                .extend(lingering.map(|(service, _)| service.clone()));
        }
        // What another namespace's has no more to do with lets it in no more.
        plan.waypoints.retain(|key, waypoint| {
            let used = !waypoint.served.is_empty() || !waypoint.lingering.is_empty();
            key.namespace == self.namespace || used || waypoint.is_draining()
        });
    }
}

/// What keeps a waypoint of this name from being made.
fn obstacle(name: &str, taken: bool) -> Option<String> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(letters);
    if !good {
        Some(format!(
            "the label {} has the value {name:?}, and no Service can have this name: use lower-case \
             letters, digits and '-', beginning with a letter",
            labels::USE_WAYPOINT
        ))
    } else if taken {
        Some(format!(
            "Service {name:?} exists already and does not belong to Ambit: rename it, or name another \
             waypoint with the label {}",
            labels::USE_WAYPOINT
        ))
    } else {
        None
    }
}
