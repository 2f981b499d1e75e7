//! What one waypoint is sent.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::AuthorizationRule;
use ambit_wire::workload::{Address, address};
use ambit_wire::{features, names, waypoint as wire};
use prost::Message;

use super::binding::{Applying, Binding};
use super::plan::{Plan, Waypoint};
use super::{WaypointResources, gateway};
use crate::index::policy::Part;
use crate::index::state::Update;
use crate::index::{Index, Key, PodRecord, ServiceRecord, authorization, build, within};

impl Index {
    /// What is sent to the waypoints of these namespaces, as far as it differs from what was.
    pub(in crate::index) fn flush_waypoints(&mut self, namespaces: &BTreeSet<String>, update: &mut Update) {
        for namespace in namespaces {
            let empty = Plan::default();
            let plan = self.plans.get(namespace).unwrap_or(&empty);
            let gone: Vec<Key> = within(&self.sent.waypoints, namespace)
                .map(|(key, _)| key.clone())
                .filter(|key| !plan.waypoints.contains_key(key))
                .collect();
            let mut changed = Vec::new();
            for (key, waypoint) in plan.own(namespace) {
                let resources = self.resources(key, waypoint, plan);
                if self.sent.waypoints.get(key) != Some(&resources) {
                    changed.push((key.clone(), resources));
                }
            }
            for key in gone {
                self.sent.waypoints.remove(&key);
                update.waypoints.insert(key, None);
            }
            for (key, resources) in changed {
                self.sent.waypoints.insert(key.clone(), resources.clone());
                update.waypoints.insert(key, Some(resources));
            }
        }
    }

    /// Whether pods of a namespace let a waypoint in.
    fn lets_in(&self, namespace: &str, waypoint: &Key) -> bool {
        let plan = self.plans.get(namespace);
        plan.is_some_and(|plan| plan.waypoints.contains_key(waypoint))
    }

    /// What a waypoint serves, in its own and in other namespaces.
    pub(super) fn served_by(&self, waypoint: &Key) -> BTreeMap<Key, &Binding> {
        let borrowers = self.borrowers.get(&waypoint.namespace);
        let namespaces = borrowers.into_iter().flatten().chain([&waypoint.namespace]);
        let plans = namespaces.filter_map(|namespace| Some((namespace, self.plans.get(namespace)?)));
        let served = plans.flat_map(|(namespace, plan)| {
            let served = plan.waypoints.get(waypoint).into_iter().flat_map(|w| &w.served);
            served.filter_map(move |name| {
                let binding = plan.services.get(name)?;
                Some((Key::new(namespace.clone(), name.clone()), binding))
            })
        });
        served.collect()
    }

    fn resources(&self, key: &Key, waypoint: &Waypoint, plan: &Plan) -> WaypointResources {
        let namespace = &key.namespace;
        let mut resources = WaypointResources::default();
        let own = waypoint.workload_authorization.iter();
        let mut policies: BTreeSet<Key> = own.map(|name| key.sibling(name)).collect();
        let mut pods: BTreeSet<Key> = plan
            .pods
            .iter()
            .filter(|(_, p)| p.waypoint.as_ref() == Some(&key.name))
            .map(|(pod, _)| key.sibling(pod))
            .collect();
        let mut served = BTreeSet::new();
        let bindings = self.served_by(key);
        for (service, binding) in &bindings {
            let Some(record) = self.services.get(service) else {
                continue;
            };
            let message = self.waypoint_service(service, record, binding);
            let name = build::service_name(&self.config, service);
            resources.services.insert(name.clone(), message.encode_to_vec());
            served.insert(name);
            policies.extend(binding.applying.parts().flat_map(Part::names).cloned());
            pods.extend(self.endpoints.pods(service));
        }
        let backends = self.routes_of(bindings.values().copied(), &mut resources, &mut policies);
        for service in &backends {
            let (name, message, rules) = self.waypoint_backend(service);
            resources.backends.insert(name.clone(), message.encode_to_vec());
            served.insert(name);
            policies.extend(rules);
            pods.extend(self.endpoints.pods(service));
        }
        let mut named = BTreeSet::new();
        for service in bindings.keys().chain(&backends).collect::<BTreeSet<_>>() {
            self.bare_workloads(key, service, &mut resources, &mut named);
        }
        for pod in &pods {
            // Backends may be in other namespaces, whose pods have another plan.
            let own = plan.pods.get(&pod.name).filter(|_| pod.namespace == *namespace);
            let reached = own.and_then(|p| p.waypoint.as_ref()) == Some(&key.name);
            self.waypoint_workload(
                pod,
                &served,
                reached.then_some(&key.name),
                &mut resources,
                &mut named,
            );
        }
        for name in policies {
            let policy = self.in_force.get(&name);
            resources
                .policies
                .extend(policy.map(|p| (name.to_string(), p.policy.encode_to_vec())));
        }
        let services = bindings.keys().chain(&backends);
        let mut namespaces: BTreeSet<&String> = services.map(|service| &service.namespace).collect();
        // With those whose Services it may still have open connections to: it is exempt from their rules, so it has to ask them itself.
        let borrowers = self.borrowers.get(namespace).into_iter().flatten();
        namespaces.extend(borrowers.filter(|borrower| self.lets_in(borrower, key)));
        namespaces.insert(namespace);
        for namespace in namespaces {
            resources
                .authorizations
                .extend(self.waypoint_authorizations(namespace, &named));
        }
        let settings = self.waypoint_settings(key, waypoint);
        let name = names::WAYPOINT_SETTINGS.to_owned();
        resources.settings.insert(name, settings.encode_to_vec());
        resources
    }

    fn waypoint_settings(&self, key: &Key, waypoint: &Waypoint) -> wire::Settings {
        let mesh = self.mesh.clone().unwrap_or_default();
        wire::Settings {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            trust_domain: mesh.trust_domain,
            access_log: mesh.access_log,
            workload_authorization: waypoint
                .workload_authorization
                .iter()
                .map(|name| key.sibling(name).to_string())
                .collect(),
            requires: Vec::new(),
        }
    }

    fn waypoint_service(&self, key: &Key, record: &ServiceRecord, binding: &Binding) -> wire::Service {
        let applying = &binding.applying;
        let others: Vec<_> = applying.whole.other_sets().map(|set| rule_set(set)).collect();
        let of_connections = binding.routes.iter().any(|a| a.route.is_of_connections());
        let requires = [
            record.local.then_some(features::LOCAL),
            (!others.is_empty()).then_some(features::RULE_SETS),
            (!binding.routes.is_empty()).then_some(features::ROUTES),
            of_connections.then_some(features::CONNECTION_ROUTES),
            (!applying.ports.is_empty()).then_some(features::SCOPED_POLICIES),
        ];
        let requires = requires.into_iter().flatten();
        let routes = binding.routes.iter().map(|attached| wire::AttachedRoute {
            route: attached.route.to_string(),
            ports: attached.ports.iter().copied().map(u32::from).collect(),
            consumers: attached.consumers.clone().unwrap_or_default(),
        });
        wire::Service {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            hostname: build::hostname(&self.config, key),
            addresses: record
                .addresses
                .iter()
                .copied()
                .map(authorization::bytes)
                .collect(),
            ports: ports(record, |port| {
                let part = applying.ports.get(&port)?;
                Some(wire::ScopedPolicies {
                    authorization: part.sets().map(|set| rule_set(set)).collect(),
                    timeout: named(part.timeout.as_ref()),
                    retry: named(part.retry.as_ref()),
                })
            }),
            authorization: names_of(&applying.whole.authorization),
            timeout: named(applying.whole.timeout.as_ref()),
            retry: named(applying.whole.retry.as_ref()),
            external_addresses: self.external_addresses(key, record),
            load_balancing: build::balancing(record),
            session_affinity_seconds: record.affinity,
            requires: requires.map(str::to_owned).collect(),
            others,
            routes: routes.collect(),
        }
    }

    /// Adds the routes of what a waypoint serves, and the names of their policies; returns the Services that they send requests to.
    fn routes_of<'a>(
        &self,
        bindings: impl Iterator<Item = &'a Binding>,
        resources: &mut WaypointResources,
        policies: &mut BTreeSet<Key>,
    ) -> BTreeSet<Key> {
        let mut backends = BTreeSet::new();
        for attached in bindings.flat_map(|binding| &binding.routes) {
            let name = attached.route.to_string();
            if resources.routes.contains_key(&name) {
                continue;
            }
            let Some(resolved) = self.resolve_route(&attached.route) else {
                continue;
            };
            resources.routes.insert(name, resolved.route.encode_to_vec());
            backends.extend(resolved.backends);
            policies.extend(resolved.policies);
        }
        backends
    }

    /// A Service that a route sends requests to: its name, the message, and the policies that this names.
    fn waypoint_backend(&self, key: &Key) -> (String, wire::Backend, Vec<Key>) {
        let record = self.services.get(key);
        let plan = self.plans.get(&key.namespace);
        let binding = plan.and_then(|plan| plan.services.get(&key.name));
        let applying = binding.map(|binding| &binding.applying);
        // Not those of other Services' routes: a route may send requests here that it has taken there.
        let sets = |part: &Part| -> Vec<wire::RuleSet> {
            let sets = part.own_sets().chain(&part.others);
            sets.map(|set| rule_set(set)).collect()
        };
        let of_port = |port: u16| {
            let authorization = sets(applying?.ports.get(&port)?);
            (!authorization.is_empty()).then(|| wire::ScopedPolicies {
                authorization,
                ..wire::ScopedPolicies::default()
            })
        };
        let ports = record.map(|record| ports(record, of_port)).unwrap_or_default();
        let requires = [
            record.is_some_and(|r| r.local).then_some(features::LOCAL),
            ports
                .iter()
                .any(|port| port.policies.is_some())
                .then_some(features::SCOPED_POLICIES),
        ];
        let message = wire::Backend {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            hostname: build::hostname(&self.config, key),
            ports,
            authorization: applying.map(|a| sets(&a.whole)).unwrap_or_default(),
            load_balancing: record.and_then(build::balancing),
            session_affinity_seconds: record.map_or(0, |r| r.affinity),
            requires: requires.into_iter().flatten().map(str::to_owned).collect(),
        };
        let parts = applying.into_iter().flat_map(Applying::parts);
        let names = parts.flat_map(|part| part.own_sets().chain(&part.others).flatten());
        let names = names.cloned().collect();
        (build::service_name(&self.config, key), message, names)
    }

    /// A pod, as a waypoint sees it: without what keeps others away from it, and of its Services only those that are `served`. `reached` is
    /// the waypoint where connections to the pod's own address come through it.
    fn waypoint_workload(
        &self,
        key: &Key,
        served: &BTreeSet<String>,
        reached: Option<&String>,
        resources: &mut WaypointResources,
        named: &mut BTreeSet<String>,
    ) {
        let Some(pod) = self.pods.get(key) else { return };
        let mut around = self.surroundings(key, pod);
        around.services.retain(|name, _| served.contains(name));
        self.as_waypoints_see_it(key, pod, &mut around);
        around.waypoint = reached.map(|w| gateway(&self.config, &key.sibling(w)));
        named.extend(around.policies.iter().cloned());
        let name = build::workload_uid(&self.config, key);
        let message = build::workload(&self.config, key, pod, around);
        resources
            .workloads
            .extend(message.and_then(|m| Some((name, workload(m)?))));
    }

    /// A pod of another namespace that lets the waypoint in is not reached as that pod: whoever writes an EndpointSlice could lead requests there
    /// past its policies.
    fn bare_workloads(
        &self,
        waypoint: &Key,
        service: &Key,
        resources: &mut WaypointResources,
        named: &mut BTreeSet<String>,
    ) {
        for slice in self.endpoints.slices(service) {
            let found = self.bare_endpoints(&slice, |pod, record| {
                if pod.namespace != service.namespace && self.lets_in(&pod.namespace, waypoint) {
                    return None;
                }
                let mut around = self.surroundings(pod, record);
                self.as_waypoints_see_it(pod, record, &mut around);
                Some(around)
            });
            for (name, message) in found {
                if let Some(address::Type::Workload(workload)) = &message.r#type {
                    named.extend(workload.authorization_policies.iter().cloned());
                }
                resources
                    .workloads
                    .extend(workload(message).map(|bytes| (name, bytes)));
            }
        }
    }

    /// With the rules that select the pod, and of what keeps others away from it only that there is some.
    fn as_waypoints_see_it(&self, key: &Key, pod: &PodRecord, around: &mut build::Surroundings) {
        let wanted = build::wanted(self.is_enrolled(&key.namespace), pod);
        around.policies = match wanted {
            true => self.selecting_rules(key, pod),
            false => Vec::new(),
        };
        around.identities_only = wanted && !self.closing_policies(key).is_empty();
    }

    /// The namespace's rules that hold for all of its pods, and those that are `named`; as they are, for the waypoint's own callers.
    fn waypoint_authorizations(
        &self,
        namespace: &str,
        named: &BTreeSet<String>,
    ) -> BTreeMap<String, Vec<u8>> {
        let rules = self.ambient.get(namespace).map(|a| a.rules.as_slice());
        let applies = |rule: &&AuthorizationRule| {
            rule.pod_selector.is_none() || named.contains(&authorization::full_name(namespace, rule))
        };
        let sent = self.sent.rules.get(namespace);
        rules
            .unwrap_or_default()
            .iter()
            .filter(applies)
            .filter_map(|rule| {
                let bytes = sent?.get(&authorization::wire_name(rule))?;
                Some((authorization::full_name(namespace, rule), bytes.clone()))
            })
            .collect()
    }
}

fn ports(
    record: &ServiceRecord,
    policies: impl Fn(u16) -> Option<wire::ScopedPolicies>,
) -> Vec<wire::ServicePort> {
    let ports = record.ports.values().map(|p| wire::ServicePort {
        port: p.port.into(),
        protocol: p.protocol.into(),
        policies: policies(p.port),
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort_by_key(|p| p.port);
    ports
}

fn named(policy: Option<&Key>) -> String {
    policy.map(Key::to_string).unwrap_or_default()
}

fn rule_set(policies: &[Key]) -> wire::RuleSet {
    wire::RuleSet {
        policies: names_of(policies),
    }
}

fn names_of(policies: &[Key]) -> Vec<String> {
    policies.iter().map(Key::to_string).collect()
}

fn workload(message: Address) -> Option<Vec<u8>> {
    match message.r#type? {
        address::Type::Workload(workload) => Some(workload.encode_to_vec()),
        address::Type::Service(_) => None,
    }
}
