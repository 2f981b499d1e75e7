//! Authorizations that follow from waypoints: what keeps the ways around them closed, and what lets them through rules that are
//! about their clients.

use std::collections::{BTreeMap, BTreeSet};

use ambit_wire::security;
use prost::Message;
use security::string_match::MatchType;

use super::Plan;
use super::binding::Binding;
use super::principal;
use crate::index::{Index, Key, ServiceRecord, build};

/// What the names of guards begin with.
pub(in crate::index) const GUARD_PREFIX: &str = "ambit-guard";

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

/// Fills in who guards which pods.
pub(super) fn make(index: &Index, namespace: &str, plan: &mut Plan) {
    let trust_domain = index.trust_domain();
    let identities = |names: &BTreeSet<String>| -> Vec<String> {
        names
            .iter()
            .map(|n| principal(&trust_domain, namespace, n))
            .collect()
    };
    // An endpoint is listed a moment after its pod has an address, and may listen by then.
    let any = plan.services.values().any(|b| !b.guard.is_empty());
    let pods = any.then(|| index.pods_in(namespace));
    let unlisted: Vec<&Key> = pods
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .filter(|key| index.endpoints.services(key).next().is_none())
        .collect();
    for (name, binding) in &mut plan.services {
        let key = Key::new(namespace, name.clone());
        let Some(record) = index.services.get(&key).filter(|_| !binding.guard.is_empty()) else {
            continue;
        };
        let principals = identities(&binding.guard);
        for (pod, guard, ports) in guarded(index, &key, record, &unlisted, binding) {
            plan.guards
                .entry(guard.clone())
                .or_insert_with(|| encode(namespace, &guard, &principals, &ports));
            plan.pods.entry(pod).or_default().guards.insert(guard);
        }
    }
    // A pod whose own address is reached through a waypoint is reached through it or not at all, where the namespace has rules.
    let decides = plan.workload_authorization.iter().any(|policy| {
        let policy = index.in_force.get(&Key::new(namespace, policy.clone()));
        policy.is_some_and(|p| p.decides())
    });
    let mut by_waypoint: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for pod in plan.pods.values_mut().filter(|_| decides) {
        let Some(waypoint) = &pod.waypoint else { continue };
        // No Service's guard is called so.
        let guard = format!("{GUARD_PREFIX}:{waypoint}");
        by_waypoint.entry(guard.clone()).or_insert_with(|| {
            let only = identities(&BTreeSet::from([waypoint.clone()]));
            encode(namespace, &guard, &only, &BTreeSet::new())
        });
        pod.guards.insert(guard);
    }
    plan.guards.extend(by_waypoint);
}

/// Pods behind a Service, with their guard's name and ports; those that are not captured are counted only. The name says what the ports are
/// (the Service's own, or these), so that a pod never names a guard that has meant other ports.
fn guarded(
    index: &Index,
    service: &Key,
    record: &ServiceRecord,
    unlisted: &[&Key],
    binding: &mut Binding,
) -> Vec<(String, String, BTreeSet<u16>)> {
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
    let selected = unlisted.iter().copied().cloned();
    let listed = index.endpoints.pods(service);
    for key in listed.iter().cloned().chain(selected) {
        let Some(pod) = index.pods.get(&key) else { continue };
        let is_listed = listed.contains(&key);
        if !is_listed && !record.selects(pod) {
            continue;
        }
        if !build::wanted(enrolled, pod) {
            binding.unguarded.insert(key.name);
            continue;
        }
        let (name, ports) = match &numbers {
            Some(ports) => (format!("{GUARD_PREFIX}-{}", service.name), ports.clone()),
            // Which ports is yet to be said: all of them.
            None if !is_listed => (format!("{GUARD_PREFIX}-{}:", service.name), BTreeSet::new()),
            None => {
                let ports = index.endpoints.targets(service, record, &key.name);
                let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
                let name = format!("{GUARD_PREFIX}-{}:{}", service.name, listed.join(","));
                (name, ports)
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
        found.push((key.name, name, ports));
    }
    found
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
