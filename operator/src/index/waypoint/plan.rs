//! The plan of a namespace, made from its records and the plan before.

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::{TargetKind, labels};

use super::binding::{Applying, Asked, Binding, RouteScope, Settling};
use super::guard;
use super::labels::WaypointLabels;
use super::sharing;
use super::timer::{LINGER, SETTLE, Timer, What};
use crate::index::policy::{Part, PolicyInForce};
use crate::index::route::Attachment;
use crate::index::{Index, Key, ServiceRecord, build};

/// What is reached through which waypoint in one namespace, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Plan {
    /// Those that are wanted or in the register, by name.
    pub(in crate::index) waypoints: BTreeMap<String, Waypoint>,
    /// All Services but the waypoints' own.
    pub(super) services: BTreeMap<String, Binding>,
    /// Pods with a guard or a waypoint of their own.
    pub(super) pods: BTreeMap<String, PodPlan>,
    /// Authorizations that keep the ways around waypoints closed, by name, encoded.
    pub(super) guards: BTreeMap<String, Vec<u8>>,
    /// Policies whose rules apply to connections to pods' own addresses.
    pub(super) workload_authorization: Vec<String>,
}

impl Plan {
    /// Waypoints that rules let through.
    pub(super) fn made(&self) -> impl Iterator<Item = &String> {
        self.waypoints
            .iter()
            .filter(|(_, w)| w.proven)
            .map(|(name, _)| name)
    }

    /// The waypoint that a Service is reached through, or not at all.
    pub(in crate::index) fn in_force(&self, service: &str) -> Option<&str> {
        self.services.get(service)?.in_force.as_deref()
    }

    /// Whether a Service's routes are in force, and why.
    pub(in crate::index) fn routed(&self, service: &Key) -> (bool, &'static str, String) {
        let Some(binding) = self.services.get(&service.name) else {
            return (false, "Pending", "the Service is about to be bound".to_owned());
        };
        let name = &service.name;
        match &binding.asked {
            Asked::No => (
                false,
                "NoWaypoint",
                format!(
                    "Service {name} has no waypoint: only a route, a policy or a label of namespace {} asks for one",
                    service.namespace
                ),
            ),
            Asked::OptedOut(why) => (
                false,
                "OptedOut",
                format!("Service {name} has no waypoint: {why}"),
            ),
            Asked::NoVirtualAddress => (
                false,
                "NoVirtualAddress",
                format!("Service {name} is headless: clients connect to its pods, not through a waypoint"),
            ),
            Asked::Waypoint(waypoint) => {
                let full = format!("{}/{waypoint}", service.namespace);
                if binding.enforced_by().is_some() {
                    return (true, "Programmed", format!("waypoint {full} routes by it"));
                }
                let obstacle = self.waypoints.get(waypoint).and_then(|w| w.obstacle.as_ref());
                let message = match obstacle {
                    Some(obstacle) => format!("there cannot be a waypoint {full}: {obstacle}"),
                    None => {
                        format!("waypoint {full} has had no ready replica yet, or ztunnels are being updated")
                    }
                };
                (false, "WaypointNotReady", message)
            }
        }
    }

    /// What a pod has from waypoints.
    pub(in crate::index) fn of_pod(&self, pod: &str) -> Option<&PodPlan> {
        self.pods.get(pod)
    }
}

/// One waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Waypoint {
    pub(super) wanted: bool,
    /// The operator has applied its ServiceAccount and its Service: rules let it through. A name that is asked for may be anybody's.
    pub(super) proven: bool,
    /// That Service is there.
    pub(super) service: bool,
    pub(super) bound: bool,
    pub(super) obstacle: Option<String>,
    /// Services in its configuration.
    pub(super) served: BTreeSet<String>,
    /// Those of them that are no longer bound to it.
    pub(super) lingering: BTreeMap<String, Lingering>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lingering {
    pub(super) timer: u64,
    pub(super) over: bool,
}

/// What a pod has from waypoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct PodPlan {
    /// What its own addresses are reached through.
    pub(in crate::index) waypoint: Option<String>,
    /// Authorizations that it names.
    pub(in crate::index) guards: BTreeSet<String>,
}

/// What a plan is made from.
struct Maker<'a> {
    index: &'a Index,
    namespace: &'a str,
    enrolled: bool,
    labels: WaypointLabels,
    policies: Vec<(&'a str, &'a PolicyInForce)>,
    before: &'a Plan,
    /// The number of the latest timer.
    timer: u64,
    timers: Vec<Timer>,
}

/// The plan of `namespace` after `before`, and the timers that began.
pub(super) fn make(index: &Index, namespace: &str, before: &Plan) -> (Plan, Vec<Timer>) {
    let policies = index
        .policies_in_force_in(namespace)
        .map(|(key, policy)| (key.name.as_str(), policy));
    let mut maker = Maker {
        index,
        namespace,
        enrolled: index.is_enrolled(namespace) && index.existing.contains(namespace),
        labels: index.waypoint_labels.get(namespace).cloned().unwrap_or_default(),
        policies: policies.collect(),
        before,
        timer: index.timer,
        timers: Vec::new(),
    };
    let plan = maker.plan();
    (plan, maker.timers)
}

impl Maker<'_> {
    fn plan(&mut self) -> Plan {
        let mut plan = Plan {
            workload_authorization: self.workload_authorization(),
            ..Plan::default()
        };
        let records: Vec<(&Key, &ServiceRecord)> = self.index.services_in(self.namespace).collect();
        for (key, record) in records.iter().filter(|(k, _)| !self.index.is_waypoint_service(k)) {
            plan.services
                .insert(key.name.clone(), self.binding(&key.name, record));
        }
        let workloads = self.workloads();
        self.waypoints(&mut plan, &workloads);
        for (name, binding) in &mut plan.services {
            self.bind(name, binding, &plan.waypoints);
        }
        sharing::share(self.index, self.namespace, &mut plan.services);
        self.serve(&mut plan);
        let mut closed = BTreeMap::new();
        let behind_rules = self.behind_rules(&plan);
        for (pod, waypoint) in workloads {
            if !plan.waypoints.get(&waypoint).is_some_and(|w| w.bound) {
                continue;
            }
            if behind_rules.contains(&pod) {
                closed.insert(pod, waypoint);
            } else {
                plan.pods.entry(pod).or_default().waypoint = Some(waypoint);
            }
        }
        guard::make(self.index, self.namespace, &mut plan, &closed);
        plan
    }

    fn start(&mut self, service: &str, what: What) -> u64 {
        self.timer += 1;
        self.timers.push(Timer {
            after: match what {
                What::Lingered(_) => LINGER,
                _ => SETTLE,
            },
            namespace: self.namespace.to_owned(),
            subject: service.to_owned(),
            what,
            number: self.timer,
        });
        self.timer
    }

    /// What is asked for a Service, and what applies to it.
    fn binding(&self, name: &str, record: &ServiceRecord) -> Binding {
        let routes = self.index.attachments(&Key::new(self.namespace, name), record);
        let applying = self.applying(name, record, &routes);
        // Another namespace's route asks for nothing here: who may write routes there may not load this namespace with pods.
        let targeted = applying.parts().any(|part| !part.is_empty())
            || routes.iter().any(|route| route.consumers.is_none());
        Binding {
            asked: Asked::of(record, &self.labels, targeted),
            applying,
            routes,
            ..Binding::default()
        }
    }

    /// The policies that apply to a Service.
    fn applying(&self, name: &str, record: &ServiceRecord, routes: &[Attachment]) -> Applying {
        let kind = TargetKind::Service.as_str();
        let part = |section: Option<&str>| {
            let distance = |p: &PolicyInForce| match p.targets(kind, name, section) {
                true => Some(0),
                false => (section.is_none() && p.targets_namespace()).then_some(1),
            };
            let those = self.policies.iter();
            let those: Vec<_> = those
                .filter_map(|(policy, p)| Some((*policy, *p, distance(p)?)))
                .collect();
            (
                Part::of(&those),
                those.iter().any(|(_, p, distance)| *distance == 0 && p.decides()),
            )
        };
        let (whole, mut own) = part(None);
        let mut ports = BTreeMap::new();
        for (port_name, port) in &record.ports {
            let (part, decides) = part(Some(port_name));
            own |= decides;
            if !part.is_empty() {
                ports.insert(port.port, part);
            }
        }
        let scopes = routes
            .iter()
            .filter(|attached| attached.consumers.is_none())
            .map(|attached| {
                let policies = self.index.route_policies(&attached.route);
                RouteScope {
                    route: attached.route.clone(),
                    ports: attached.ports.clone(),
                    sets: policies.deciding().cloned().collect(),
                }
            });
        let routes: Vec<_> = scopes.filter(|scope| !scope.sets.is_empty()).collect();
        Applying {
            whole,
            ports,
            own: own || !routes.is_empty(),
            routes,
        }
    }

    /// What all of the namespace's pods and Services use where nothing of their own says otherwise.
    fn default_waypoint(&self) -> Option<&str> {
        match self.labels.use_waypoint.as_deref() {
            Some(labels::USE_WAYPOINT_NONE) => None,
            Some(name) => Some(name),
            None => self
                .policies
                .iter()
                .any(|(_, p)| p.targets_namespace())
                .then_some(labels::WAYPOINT),
        }
    }

    /// Pods behind Services that are guarded for rules of their own. At such a pod's own address only the namespace's rules would apply, and
    /// its waypoint is let in past the guard: it stays closed to direct calls instead.
    fn behind_rules(&self, plan: &Plan) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let guarded = plan.services.iter().filter(|(_, b)| !b.guard.is_empty());
        for (name, _) in guarded.filter(|(_, b)| b.applying.own) {
            let pods = guard::pods(self.index, &Key::new(self.namespace, name.clone()));
            found.extend(pods.into_iter().map(|pod| pod.name));
        }
        found
    }

    /// Pods whose own addresses are to be reached through a waypoint, and which, but for those that stay closed.
    fn workloads(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        if !self.labels.waypoint_for.workloads() || !self.enrolled {
            return found;
        }
        for (key, pod) in self.index.pods_in(self.namespace) {
            let name = match pod.use_waypoint() {
                Some(labels::USE_WAYPOINT_NONE) => None,
                Some(name) => Some(name),
                None => self.default_waypoint(),
            };
            let Some(name) =
                name.filter(|_| build::wanted(true, pod) && self.index.replica_of(key, pod).is_none())
            else {
                continue;
            };
            found.insert(key.name.clone(), name.to_owned());
        }
        found
    }

    fn workload_authorization(&self) -> Vec<String> {
        let applying = self
            .policies
            .iter()
            .filter(|(_, p)| self.labels.waypoint_for.workloads() && p.targets_namespace() && p.has_rules());
        applying.map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The waypoints that are asked for, and those in the register.
    fn waypoints(&self, plan: &mut Plan, workloads: &BTreeMap<String, String>) {
        let any = self.labels.waypoint_for.services() || self.labels.waypoint_for.workloads();
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        if self.enrolled && any {
            wanted.extend(plan.services.values().filter_map(|b| b.asked.waypoint()));
            wanted.extend(workloads.values().map(String::as_str));
            // Before its first Service or pod too.
            let anyhow = plan.services.is_empty()
                || self.labels.use_waypoint.is_some()
                || self.labels.waypoint_for.workloads();
            wanted.extend(self.default_waypoint().filter(|_| anyhow));
        }
        let registered = self.index.registered_in(self.namespace).map(|(key, entry)| {
            let waypoint = Waypoint {
                proven: entry.is_proven(),
                service: self.index.is_waypoint_service(key),
                // Its Service may have been deleted by hand: that opens nothing.
                bound: entry.bound,
                ..Waypoint::default()
            };
            (key.name.clone(), waypoint)
        });
        plan.waypoints = registered.collect();
        for name in wanted {
            // A Service that says that it is the operator's is replaced.
            let service = self.index.services.get(&Key::new(self.namespace, name));
            let taken = plan.services.contains_key(name) && service.is_some_and(|s| !s.claims);
            let waypoint = plan.waypoints.entry(name.to_owned()).or_default();
            waypoint.wanted = true;
            waypoint.obstacle = obstacle(name, taken);
        }
    }

    fn bind(&mut self, name: &str, binding: &mut Binding, waypoints: &BTreeMap<String, Waypoint>) {
        let in_force = |w: &&str| waypoints.get(*w).is_some_and(|w| w.wanted && w.bound);
        binding.desired = binding.asked.waypoint().filter(in_force).map(str::to_owned);
        let before = self.before.services.get(name);
        binding.settling = before.and_then(|b| b.settling.clone());
        // A Service that is new is new to everybody; so is everything at the start.
        if self.index.started && before.is_some_and(|b| b.desired != binding.desired) {
            let from = before.and_then(|b| b.in_force.clone());
            let guarded = before.is_some_and(|b| !b.guard.is_empty());
            if from.is_some() || binding.desired.is_some() {
                binding.settling = Some(Settling {
                    from,
                    guarded,
                    timer: self.start(name, What::Settled),
                });
            }
        }
        binding.settle();
    }

    /// What each waypoint is sent, what has just left it included.
    fn serve(&mut self, plan: &mut Plan) {
        for (name, waypoint) in &mut plan.waypoints {
            let before = self.before.waypoints.get(name);
            waypoint.lingering = before.map(|w| w.lingering.clone()).unwrap_or_default();
            for (service, binding) in &plan.services {
                let asked = waypoint.wanted && binding.asked.waypoint() == Some(name);
                if asked || binding.in_force.as_ref() == Some(name) {
                    waypoint.lingering.remove(service);
                    waypoint.served.insert(service.clone());
                    continue;
                }
                let before = self.before.services.get(service);
                if before.is_some_and(|b| b.in_force.as_ref() == Some(name)) {
                    let timer = self.start(service, What::Lingered(name.clone()));
                    waypoint
                        .lingering
                        .insert(service.clone(), Lingering { timer, over: false });
                }
            }
            // One that is not wanted drains: it keeps what it has until its Service is gone.
            let draining = !waypoint.wanted && waypoint.proven;
            waypoint
                .lingering
                .retain(|s, l| (!l.over || draining) && plan.services.contains_key(s));
            waypoint.served.extend(waypoint.lingering.keys().cloned());
        }
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
