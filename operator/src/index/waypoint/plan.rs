//! The plan of a namespace, made from its records and the plan before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ambit_crds::{TargetKind, labels};

use super::binding::{Applying, Asked, Binding, OptOut, RouteScope};
use super::guard;
use super::labels::{WaypointFor, WaypointLabels};
use super::sharing;
use super::timer::{LINGER, Timer, What};
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
                if binding.in_force.is_some() {
                    return (true, "Programmed", format!("waypoint {full} routes by it"));
                }
                let obstacle = self.waypoints.get(waypoint).and_then(|w| w.obstacle.as_ref());
                let message = match obstacle {
                    Some(obstacle) => format!("there cannot be a waypoint {full}: {obstacle}"),
                    None => {
                        format!("waypoint {full} has had no ready replica yet")
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
    pub(super) waypoint_for: WaypointFor,
    /// Policies whose rules apply to connections to pods' own addresses.
    pub(super) workload_authorization: Vec<String>,
    /// Services in its configuration.
    pub(super) served: BTreeSet<String>,
    /// Services that are no longer bound to it: it serves them, and then what is open may end.
    pub(super) lingering: BTreeMap<String, Lingering>,
}

impl Waypoint {
    /// Nothing asks for it any more, and it runs.
    pub(super) fn is_draining(&self) -> bool {
        !self.wanted && self.proven
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lingering {
    pub(super) timer: u64,
    /// The time of the timer is over.
    pub(super) over: bool,
    /// It takes new connections to the Service. Else those that are open may go on until the drain deadline.
    pub(super) served: bool,
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
    /// Waypoints that Gateways declare.
    declared: BTreeMap<&'a str, Declared>,
    policies: Vec<(&'a str, &'a PolicyInForce)>,
    before: &'a Plan,
    /// The number of the latest timer.
    timer: u64,
    timers: Vec<Timer>,
}

/// What a Gateway says of its waypoint.
struct Declared {
    waypoint_for: Option<WaypointFor>,
    /// Services of the namespace may use it.
    admits: bool,
}

/// The plan of `namespace` after `before`, and the timers that began.
pub(super) fn make(index: &Index, namespace: &str, before: &Plan) -> (Plan, Vec<Timer>) {
    let policies = index
        .policies_in_force_in(namespace)
        .map(|(key, policy)| (key.name.as_str(), policy));
    let declared = index.declared_in(namespace).map(|(name, gateway, admits)| {
        let waypoint_for = gateway.waypoint_for;
        (name, Declared { waypoint_for, admits })
    });
    let mut maker = Maker {
        index,
        namespace,
        enrolled: index.is_enrolled(namespace) && index.existing.contains(namespace),
        labels: index.waypoint_labels.get(namespace).cloned().unwrap_or_default(),
        declared: declared.collect(),
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
        let mut plan = Plan::default();
        let records: Vec<(&Key, &ServiceRecord)> = self.index.services_in(self.namespace).collect();
        for (key, record) in records.iter().filter(|(k, _)| !self.index.is_waypoint_service(k)) {
            plan.services
                .insert(key.name.clone(), self.binding(&key.name, record));
        }
        let workloads = self.workloads();
        self.waypoints(&mut plan, &workloads);
        for binding in plan.services.values_mut() {
            let bound = |w: &&str| plan.waypoints.get(*w).is_some_and(|w| w.wanted && w.bound);
            binding.in_force = binding.asked.waypoint().filter(bound).map(str::to_owned);
        }
        sharing::share(self.index, self.namespace, &mut plan.services);
        self.serve(&mut plan);
        let mut closed = BTreeMap::new();
        let behind_rules = self.behind_rules(&plan, &workloads);
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

    /// A timer for the end of a time in which a Service still has to do with `waypoint`.
    fn start(&mut self, service: &str, waypoint: &str, after: Duration) -> u64 {
        self.timer += 1;
        self.timers.push(Timer {
            after,
            namespace: self.namespace.to_owned(),
            subject: service.to_owned(),
            what: What::Lingered(waypoint.to_owned()),
            number: self.timer,
        });
        self.timer
    }

    /// What is asked for a Service, and what applies to it.
    fn binding(&self, name: &str, record: &ServiceRecord) -> Binding {
        let routes = self.index.attachments(&Key::new(self.namespace, name), record);
        let mut applying = self.applying(name, record, &routes);
        // Another namespace's route asks for nothing here: who may write routes there may not load this namespace with pods.
        let targeted = applying.parts().any(|part| !part.is_empty())
            || routes.iter().any(|route| route.consumers.is_none());
        let asked = Asked::of(record, &self.labels, targeted, |waypoint| self.may_bind(waypoint));
        // A Gateway's policies ask for no waypoint: they apply where the Gateway's is used.
        let of_gateway = |waypoint: &&str| self.policies.iter().any(|(_, p)| p.targets_gateway(waypoint));
        if let Some(waypoint) = asked.waypoint().filter(of_gateway) {
            applying.whole = self.part(name, None, Some(waypoint)).0;
        }
        Binding {
            asked,
            applying,
            routes,
            ..Binding::default()
        }
    }

    /// The policies for a Service that uses `waypoint`, or for a port of it (`section`); and whether some that decide name it.
    fn part(&self, name: &str, section: Option<&str>, waypoint: Option<&str>) -> (Part, bool) {
        let kind = TargetKind::Service.as_str();
        let distance = |p: &PolicyInForce| {
            if p.targets(kind, name, section) {
                Some(0)
            } else if section.is_some() {
                None
            } else if waypoint.is_some_and(|waypoint| p.targets_gateway(waypoint)) {
                Some(1)
            } else {
                p.targets_namespace().then_some(2)
            }
        };
        let those = self.policies.iter();
        let those: Vec<_> = those
            .filter_map(|(policy, p)| Some((*policy, *p, distance(p)?)))
            .collect();
        let own = those.iter().any(|(_, p, distance)| *distance == 0 && p.decides());
        (Part::of(&those), own)
    }

    /// The policies that apply to a Service, whichever waypoint it uses.
    fn applying(&self, name: &str, record: &ServiceRecord, routes: &[Attachment]) -> Applying {
        let (whole, mut own) = self.part(name, None, None);
        let mut ports = BTreeMap::new();
        for (port_name, port) in &record.ports {
            let (part, decides) = self.part(name, Some(port_name), None);
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

    /// What a waypoint is for: its Gateway's label goes before the namespace's.
    fn waypoint_for(&self, waypoint: &str) -> WaypointFor {
        let own = self.declared.get(waypoint).and_then(|d| d.waypoint_for);
        own.unwrap_or(self.labels.waypoint_for)
    }

    /// Whether the namespace's Services may use a waypoint; its Gateway may keep them away.
    fn may_bind(&self, waypoint: &str) -> Result<(), OptOut> {
        let declared = self.declared.get(waypoint);
        let waypoint_for = self.waypoint_for(waypoint);
        match declared {
            Some(declared) if !declared.admits => Err(OptOut::NotAllowed),
            _ if waypoint_for.services() => Ok(()),
            Some(declared) if declared.waypoint_for.is_some() => Err(OptOut::Gateway(waypoint_for)),
            _ => Err(OptOut::For(waypoint_for)),
        }
    }

    /// Whether the namespace's pods may use a waypoint.
    fn takes_pods(&self, waypoint: &str) -> bool {
        let admits = self.declared.get(waypoint).is_none_or(|d| d.admits);
        admits && self.waypoint_for(waypoint).workloads()
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

    /// Pods behind Services that are guarded for rules of their own, or of a Gateway that is not that of the pod's waypoint (in `workloads`). At
    /// such a pod's own address these would not apply, and its waypoint is let in past the guard: it stays closed to direct calls instead.
    fn behind_rules(&self, plan: &Plan, workloads: &BTreeMap<String, String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (name, binding) in plan.services.iter().filter(|(_, b)| b.is_guarded()) {
            let (own, waypoint) = (binding.applying.own, binding.asked.waypoint());
            let of_gateway = |waypoint| {
                let mut policies = self.policies.iter();
                policies.any(|(_, p)| p.decides() && p.targets_gateway(waypoint))
            };
            if !own && !waypoint.is_some_and(of_gateway) {
                continue;
            }
            let pods = guard::pods(self.index, &Key::new(self.namespace, name.clone()));
            let pods = pods.into_iter().map(|pod| pod.name);
            found.extend(pods.filter(|pod| own || workloads.get(pod).map(String::as_str) != waypoint));
        }
        found
    }

    /// Pods whose own addresses are to be reached through a waypoint, and which, but for those that stay closed.
    fn workloads(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let declared = self.declared.values().filter_map(|d| d.waypoint_for);
        let mut all = declared.chain([self.labels.waypoint_for]);
        if !self.enrolled || !all.any(WaypointFor::workloads) {
            return found;
        }
        for (key, pod) in self.index.pods_in(self.namespace) {
            let name = match pod.use_waypoint() {
                Some(labels::USE_WAYPOINT_NONE) => None,
                Some(name) => Some(name),
                None => self.default_waypoint(),
            };
            let Some(name) = name.filter(|name| {
                self.takes_pods(name) && build::wanted(true, pod) && self.index.replica_of(key, pod).is_none()
            }) else {
                continue;
            };
            found.insert(key.name.clone(), name.to_owned());
        }
        found
    }

    fn workload_authorization(&self, waypoint: &str) -> Vec<String> {
        if !self.takes_pods(waypoint) {
            return Vec::new();
        }
        let applying = self
            .policies
            .iter()
            .filter(|(_, p)| p.has_rules() && (p.targets_namespace() || p.targets_gateway(waypoint)));
        applying.map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The waypoints that are asked for, and those in the register.
    fn waypoints(&self, plan: &mut Plan, workloads: &BTreeMap<String, String>) {
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        if self.enrolled {
            wanted.extend(self.declared.keys());
            wanted.extend(plan.services.values().filter_map(|b| b.asked.waypoint()));
            wanted.extend(workloads.values().map(String::as_str));
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
        for (name, waypoint) in &mut plan.waypoints {
            waypoint.waypoint_for = self.waypoint_for(name);
            waypoint.workload_authorization = self.workload_authorization(name);
        }
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
                    let lingering = Lingering {
                        timer: self.start(service, name, LINGER),
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
                        timer: self.start(service, name, self.index.drain_deadline()),
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
