//! What decides about a Service's requests decides about its pods, through whichever Service they are reached.

use std::collections::{BTreeMap, BTreeSet};

use super::binding::{Applying, Binding, RouteScope};
use crate::index::policy::Part;
use crate::index::{Index, Key, ServiceRecord};

/// Ports of a pod; `None` while they are not known: any of them.
type Ports = Option<BTreeSet<u16>>;

/// A way to a pod: the Service, one of its ports or all of them, and ports of the pod.
type Way = (String, Option<u16>, Ports);

/// Fills in which rules of other Services hold for each: whoever may write Services could otherwise lead a second one to the pods of the first,
/// through a waypoint that has none of its rules.
///
/// Where a Service has all policies of another, its own set is the more particular one, and holds alone. The rules for a route hold as they are
/// for all that comes another way: what the route matches can be told at the Services alone that it is attached to.
pub(super) fn share(index: &Index, namespace: &str, services: &mut BTreeMap<String, Binding>) {
    let enforced = |b: &Binding| b.asked.waypoint().is_some() && b.applying.decides();
    if services.len() < 2 || !services.values().any(enforced) {
        return;
    }
    let mut found: BTreeMap<(String, Option<u16>), Found> = BTreeMap::new();
    for ways in ways(index, namespace, services) {
        for (guarding, port, ports) in &ways {
            let Some(binding) = services.get(guarding).filter(|b| enforced(b)) else {
                continue;
            };
            let scope = Scope::of(&binding.applying, *port);
            let beside = ways.iter().filter(|(other, at, theirs)| {
                // What is about one port holds at ports; what is about all of them, at the Service.
                other != guarding && at.is_some() == port.is_some() && overlap(ports, theirs)
            });
            for (other, at, _) in beside {
                let Some(held) = services.get(other) else { continue };
                let sets = found.entry((other.clone(), *at)).or_default();
                sets.others.extend(scope.own.clone());
                let of_routes = scope.routes.iter().filter(|scope| !is_attached(held, scope));
                sets.of_routes
                    .extend(of_routes.flat_map(|scope| scope.sets.clone()));
            }
        }
    }
    for ((service, port), sets) in found {
        let Some(binding) = services.get_mut(&service) else {
            continue;
        };
        let applying = &mut binding.applying;
        let mut own: Vec<Key> = applying.whole.own_sets().flatten().cloned().collect();
        let part = match port {
            None => &mut applying.whole,
            Some(port) => applying.ports.entry(port).or_default(),
        };
        own.extend(part.own_sets().flatten().cloned());
        part.others = unheld(&own, &sets.others);
        part.of_routes = unheld(&own, &sets.of_routes);
    }
    for binding in services.values_mut() {
        binding.applying.ports.retain(|_, part| !part.is_empty());
    }
}

/// Sets of other Services.
#[derive(Default)]
struct Found {
    others: BTreeSet<Vec<Key>>,
    of_routes: BTreeSet<Vec<Key>>,
}

/// Those of the sets that do not hold already, because of the `own` policies or of another set.
fn unheld(own: &[Key], sets: &BTreeSet<Vec<Key>>) -> BTreeSet<Vec<Key>> {
    let held = |set: &Vec<Key>| {
        let mut others = sets.iter().filter(|other| *other != set);
        set.iter().all(|p| own.contains(p)) || others.any(|other| set.iter().all(|p| other.contains(p)))
    };
    sets.iter().filter(|set| !held(set)).cloned().collect()
}

/// Whether the route is attached to all ports of a Service.
fn is_attached(binding: &Binding, scope: &RouteScope) -> bool {
    let mut routes = binding.routes.iter();
    routes.any(|attached| attached.route == scope.route && attached.ports.is_empty())
}

/// The policies that decide about all of a Service, or about one of its ports alone.
struct Scope<'a> {
    own: Vec<Vec<Key>>,
    routes: Vec<&'a RouteScope>,
}

impl<'a> Scope<'a> {
    fn of(applying: &'a Applying, port: Option<u16>) -> Self {
        let part = port.map_or(Some(&applying.whole), |port| applying.ports.get(&port));
        let deciding = part.into_iter().flat_map(Part::deciding_sets);
        let routes = applying.routes.iter().filter(|route| match port {
            None => route.ports.is_empty(),
            Some(port) => route.ports.contains(&port),
        });
        Self {
            own: deciding.cloned().collect(),
            routes: routes.collect(),
        }
    }
}

/// The Services that lead to each pod, with the pod's ports; once for all pods of which the same is to be said. Port by port, too, where
/// policies are about some ports alone.
fn ways(index: &Index, namespace: &str, services: &BTreeMap<String, Binding>) -> BTreeSet<Vec<Way>> {
    let scoped = |b: &Binding| {
        let mut ports = b.applying.ports.values();
        ports.any(Part::decides) || b.applying.routes.iter().any(|r| !r.ports.is_empty())
    };
    let by_port = services.values().any(scoped);
    let mut of_pods: BTreeMap<String, Vec<Way>> = BTreeMap::new();
    for name in services.keys() {
        let key = Key::new(namespace, name.clone());
        let Some(record) = index.services.get(&key).filter(|r| !r.ports.is_empty()) else {
            continue;
        };
        let numbers = record.ports.values().map(|port| port.port).filter(|_| by_port);
        for at in std::iter::once(None).chain(numbers.map(Some)) {
            let part = at.map(|port| record.only(&BTreeSet::from([port])));
            for (pod, ports) in reached(index, &key, part.as_ref().unwrap_or(record)) {
                of_pods.entry(pod).or_default().push((name.clone(), at, ports));
            }
        }
    }
    of_pods.into_values().filter(|ways| ways.len() > 1).collect()
}

fn overlap(one: &Ports, other: &Ports) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => !one.is_disjoint(other),
        _ => true,
    }
}

/// The pods that a Service leads to: those that its slices list, also by nothing but an address, and those that it selects.
fn reached(index: &Index, service: &Key, record: &ServiceRecord) -> BTreeMap<String, Ports> {
    let (mut found, bare) = index.endpoints.reached(service, record);
    for (address, ports) in bare {
        let holder = index.holder(address).map(|(pod, _)| pod);
        if let Some(pod) = holder.filter(|pod| pod.namespace == service.namespace) {
            found.entry(pod.name.clone()).or_default().extend(ports);
        }
    }
    let mut found: BTreeMap<String, Ports> = found.into_iter().map(|(pod, p)| (pod, Some(p))).collect();
    let pods = index.pods_in(&service.namespace);
    for (pod, of_pod) in pods.filter(|(_, pod)| record.selects(pod)) {
        match (found.entry(pod.name.clone()).or_default(), record.targets(of_pod)) {
            (Some(ports), declared) => ports.extend(declared.into_iter().flatten()),
            // It is not listed yet.
            (unlisted, declared) => *unlisted = declared,
        }
    }
    found
}
