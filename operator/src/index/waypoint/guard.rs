//! Authorizations that follow from waypoints: what keeps the ways around them closed, and what lets them through rules that are
//! about their clients.

use std::collections::{BTreeMap, BTreeSet};

use ambit_wire::names::GUARD_PREFIX;
use ambit_wire::security;
use prost::Message;
use security::string_match::MatchType;

use super::Plan;
use super::binding::Binding;
use super::plan::PodPlan;
use super::principal;
use crate::index::{Index, Key, ServiceRecord, build};

fn exactly(principals: &[String]) -> Vec<security::StringMatch> {
    let exact = |p: &String| security::StringMatch {
        match_type: Some(MatchType::Exact(p.clone())),
    };
    principals.iter().map(exact).collect()
}

/// Denies everybody but `principals`, plaintext callers too; on these ports, or on all.
fn encode(namespace: &str, name: &str, principals: &[String], ports: &BTreeSet<u16>) -> Vec<u8> {
    let others = security::Match {
        not_principals: exactly(principals),
        destination_ports: ports.iter().copied().map(u32::from).collect(),
        ..security::Match::default()
    };
    let clause = security::Clause {
        matches: vec![others],
    };
    security::Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: security::Scope::WorkloadSelector.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule {
            clauses: vec![clause],
        }],
        ..security::Authorization::default()
    }
    .encode_to_vec()
}

/// Fills in who guards which pods. Pods that are `closed` would be reached at their own addresses through these waypoints, and are not, since
/// a Service in front of them has rules of its own.
pub(super) fn make(index: &Index, namespace: &str, plan: &mut Plan, closed: &BTreeMap<String, String>) {
    let trust_domain = index.trust_domain();
    let identities = |waypoints: &BTreeSet<Key>| -> Vec<String> {
        let waypoints = waypoints.iter();
        waypoints.map(|w| principal(&trust_domain, w)).collect()
    };
    let ways: BTreeMap<String, BTreeSet<Key>> = plan
        .services
        .iter()
        .map(|(name, binding)| (name.clone(), ways(name, binding, plan)))
        .collect();
    // Whom else to let in: a pod may stand behind Services of several waypoints, and be reached at its own address through another.
    let others = |pod: &Key, own: Option<&String>| -> BTreeSet<Key> {
        let services = index.endpoints.services(pod);
        let through = services.filter_map(|s| ways.get(&s.name)).flatten();
        let own = own.map(|name| Key::new(namespace, name.clone()));
        through.cloned().chain(own).collect()
    };
    let own =
        |plan: &BTreeMap<String, PodPlan>, pod: &Key| plan.get(&pod.name).and_then(|p| p.waypoint.clone());
    for (name, binding) in &mut plan.services {
        let key = Key::new(namespace, name.clone());
        let Some(record) = index.services.get(&key).filter(|_| binding.is_guarded()) else {
            continue;
        };
        let closed = binding.applying.decided_ports().map(|ports| record.only(&ports));
        binding.bare = index.endpoints.bare(&key);
        let mut admitted = ways.get(name).cloned().unwrap_or_default();
        for pod in index.endpoints.pods(&key) {
            admitted.extend(others(&pod, own(&plan.pods, &pod).as_ref()));
        }
        let principals = identities(&admitted);
        for (pod, guard, ports) in guarded(index, &key, record, closed.as_ref(), binding) {
            plan.guards
                .entry(guard.clone())
                .or_insert_with(|| encode(namespace, &guard, &principals, &ports));
            plan.pods.entry(pod).or_default().guards.insert(guard);
        }
    }
    // A pod whose own address is reached through a waypoint is reached through it or not at all, where the namespace has rules; on every port,
    // also where a Service's guard is about some.
    let deciding = plan.own(namespace).filter(|(_, waypoint)| {
        waypoint.workload_authorization.iter().any(|policy| {
            let policy = index.in_force.get(&Key::new(namespace, policy.clone()));
            policy.is_some_and(|p| p.decides())
        })
    });
    let deciding: BTreeSet<String> = deciding.map(|(key, _)| key.name.clone()).collect();
    let mut by_waypoint: BTreeMap<String, BTreeSet<Key>> = BTreeMap::new();
    for (name, pod) in &mut plan.pods {
        let Some(waypoint) = pod.waypoint.as_ref().filter(|w| deciding.contains(*w)) else {
            continue;
        };
        let admitted = by_waypoint.entry(waypoint.clone()).or_default();
        admitted.extend(others(&Key::new(namespace, name.clone()), Some(waypoint)));
        pod.guards.insert(of_waypoint(waypoint));
    }
    for (name, waypoint) in closed.iter().filter(|(_, waypoint)| deciding.contains(*waypoint)) {
        let admitted = by_waypoint.entry(waypoint.clone()).or_default();
        admitted.extend(others(&Key::new(namespace, name.clone()), Some(waypoint)));
        let pod = plan.pods.entry(name.clone()).or_default();
        pod.guards.insert(of_waypoint(waypoint));
    }
    for (waypoint, admitted) in by_waypoint {
        let guard = of_waypoint(&waypoint);
        let message = encode(namespace, &guard, &identities(&admitted), &BTreeSet::new());
        plan.guards.insert(guard, message);
    }
}

/// The name of the guard of pods whose own addresses are reached through a waypoint; no Service's guard is called so.
fn of_waypoint(waypoint: &str) -> String {
    format!("{GUARD_PREFIX}:{waypoint}")
}

/// Waypoints through which connections to a Service may come: now, before long, or still, as callers have not heard of its change, or what is
/// open has not ended.
fn ways(service: &str, binding: &Binding, plan: &Plan) -> BTreeSet<Key> {
    let asked = binding.asked.waypoint();
    let asked = asked.filter(|w| plan.waypoints.get(*w).is_some_and(|w| w.proven));
    let all = asked.into_iter().chain(&binding.in_force).cloned();
    // Of one that drains, a control plane that has just started does not know what it served.
    let leaving = plan.waypoints.iter();
    let leaving = leaving.filter(|(_, w)| w.is_draining() || w.proven && w.lingering.contains_key(service));
    all.chain(leaving.map(|(key, _)| key.clone())).collect()
}

/// Pods behind a Service. An endpoint is listed a moment after its pod has an address, and may listen by then: those that the Service selects
/// are among them.
pub(super) fn pods(index: &Index, service: &Key) -> BTreeSet<Key> {
    let mut found = index.endpoints.pods(service);
    if let Some(record) = index.services.get(service) {
        let selected = index
            .pods_in(&service.namespace)
            .filter(|(_, pod)| record.selects(pod));
        found.extend(selected.map(|(key, _)| key.clone()));
    }
    found
}

/// Pods behind a Service, with their guard's name and ports, of which only some may be `closed`; those that are not captured are counted only. The name says what the ports are
/// (the Service's own, or these), so that a pod never names a guard that has meant other ports.
fn guarded(
    index: &Index,
    service: &Key,
    record: &ServiceRecord,
    closed: Option<&ServiceRecord>,
    binding: &mut Binding,
) -> Vec<(String, String, BTreeSet<u16>)> {
    let whole = closed.is_none();
    let record = closed.unwrap_or(record);
    let numbers: Option<BTreeSet<u16>> = record
        .ports
        .values()
        .map(|p| Some(p.target).filter(|t| *t != 0))
        .collect();
    let enrolled = index.is_enrolled(&service.namespace);
    let mut found = Vec::new();
    if record.ports.is_empty() {
        return found;
    }
    let listed = index.endpoints.pods(service);
    // Asked once: what each pod has is looked for in all slices.
    let strays = numbers
        .as_ref()
        .is_some_and(|ports| index.endpoints.strays(service, record, ports));
    for key in &pods(index, service) {
        let Some(pod) = index.pods.get(key) else { continue };
        if !build::wanted(enrolled, pod) {
            binding.unguarded.insert(key.name.clone());
            continue;
        }
        let is_listed = listed.contains(key);
        let actual = match (&numbers, strays) {
            (Some(_), false) => BTreeSet::new(),
            _ => index.endpoints.targets(service, record, &key.name),
        };
        let (name, ports) = match &numbers {
            Some(ports) if whole && actual.is_subset(ports) => {
                (format!("{GUARD_PREFIX}-{}", service.name), ports.clone())
            }
            None if !is_listed => {
                // Where the pod does not declare them, which ports is yet to be said: all of them.
                let ports = record.targets(pod).unwrap_or_default();
                (of_ports(service, &ports), ports)
            }
            // Slices say other ports than the Service where somebody keeps them by hand, and for a moment after it has changed.
            _ => {
                let ports: BTreeSet<u16> = numbers.iter().flatten().chain(&actual).copied().collect();
                (of_ports(service, &ports), ports)
            }
        };
        // Nothing leads there, and a guard without ports would close all of them.
        if ports.is_empty() && is_listed {
            continue;
        }
        // Only what the node has recorded is enforced there.
        let counted = if pod.marked {
            &mut binding.guarded
        } else {
            &mut binding.unguarded
        };
        counted.insert(key.name.clone());
        found.push((key.name.clone(), name, ports));
    }
    found
}

/// The name of the guard of pods that a Service leads to on these ports.
fn of_ports(service: &Key, ports: &BTreeSet<u16>) -> String {
    let all: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{GUARD_PREFIX}-{}:{}", service.name, all.join(","))
}

/// `authorization`, of an AmbientNamespace, as pods' ztunnels evaluate it: what it says of callers is not about waypoints, which evaluate it
/// for their own callers before they connect.
pub(in crate::index) fn exempt(
    mut authorization: security::Authorization,
    waypoints: &[String],
) -> security::Authorization {
    if waypoints.is_empty() {
        return authorization;
    }
    let deny = authorization.action() == security::Action::Deny;
    let clauses = authorization.rules.iter_mut().flat_map(|r| &mut r.clauses);
    let callers = |m: &security::Match| {
        !(m.principals.is_empty() && m.namespaces.is_empty() && m.source_ips.is_empty())
    };
    for clause in clauses.filter(|c| c.matches.iter().any(callers)) {
        if deny {
            for one in &mut clause.matches {
                one.not_principals.extend(exactly(waypoints));
            }
        } else {
            clause.matches.push(security::Match {
                principals: exactly(waypoints),
                ..security::Match::default()
            });
        }
    }
    authorization
}
