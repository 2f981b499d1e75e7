//! What decides about a Service's requests decides about its pods, through whichever Service they are reached.

use std::collections::{BTreeMap, BTreeSet};

use super::binding::Binding;
use crate::index::{Index, Key, ServiceRecord};

/// Ports of a pod; `None` while they are not known: any of them.
type Ports = Option<BTreeSet<u16>>;

/// Fills in which rules of other Services hold for each: whoever may write Services could otherwise lead a second one to the pods of the first,
/// through a waypoint that has none of its rules.
///
/// Where a Service has all policies of another, its own set is the more particular one, and holds alone.
pub(super) fn share(index: &Index, namespace: &str, services: &mut BTreeMap<String, Binding>) {
    let enforced = |b: &Binding| b.asked.waypoint().is_some() && b.applying.decides();
    if services.len() < 2 || !services.values().any(enforced) {
        return;
    }
    let mut found: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for ways in ways(index, namespace, services) {
        for (guarding, ports) in &ways {
            let Some(binding) = services.get(guarding).filter(|b| enforced(b)) else {
                continue;
            };
            let beside = ways
                .iter()
                .filter(|(other, theirs)| other != guarding && overlap(ports, theirs));
            for (other, _) in beside {
                let sets = found.entry(other.clone()).or_default();
                sets.insert(binding.applying.deciding.clone());
            }
        }
    }
    for (service, sets) in found {
        let Some(binding) = services.get_mut(&service) else {
            continue;
        };
        let own = &binding.applying.authorization;
        let held = |set: &Vec<String>| {
            let mut others = sets.iter().filter(|other| *other != set);
            set.iter().all(|p| own.contains(p)) || others.any(|other| set.iter().all(|p| other.contains(p)))
        };
        binding.applying.others = sets.iter().filter(|set| !held(set)).cloned().collect();
    }
}

/// The Services that lead to each pod, with the pod's ports; once for all pods of which the same is to be said.
fn ways(
    index: &Index,
    namespace: &str,
    services: &BTreeMap<String, Binding>,
) -> BTreeSet<Vec<(String, Ports)>> {
    let mut of_pods: BTreeMap<String, Vec<(String, Ports)>> = BTreeMap::new();
    for name in services.keys() {
        let key = Key::new(namespace, name.clone());
        let Some(record) = index.services.get(&key).filter(|r| !r.ports.is_empty()) else {
            continue;
        };
        for (pod, ports) in reached(index, &key, record) {
            of_pods.entry(pod).or_default().push((name.clone(), ports));
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
