//! The plan of a namespace, made from its records and the plan before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ambit_crds::{TargetKind, labels};

use super::binding::{Applying, Asked, Binding, RouteScope};
use super::guard;
use super::labels::{WaypointFor, WaypointLabels};
use super::sharing;
use super::timer::{Timer, What};
use crate::index::policy::{Part, PolicyInForce};
use crate::index::route::Attachment;
use crate::index::{Index, Key, ServiceRecord, build, within};

/// What is reached through which waypoint in one namespace, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct Plan {
    /// Its own that are wanted or in the register; and those of other namespaces that its Services use, or have used until now.
    pub(in crate::index) waypoints: BTreeMap<Key, Waypoint>,
    /// Other namespaces whose waypoints its Services ask for, be it in vain, or are still served by.
    pub(super) lenders: BTreeSet<String>,
    /// All Services but the waypoints' own.
    pub(super) services: BTreeMap<String, Binding>,
    /// Pods with a guard or a waypoint of their own.
    pub(super) pods: BTreeMap<String, PodPlan>,
    /// Authorizations that keep the ways around waypoints closed, by name, encoded.
    pub(super) guards: BTreeMap<String, Vec<u8>>,
}

impl Plan {
    /// Waypoints that rules let through.
    pub(super) fn made(&self) -> impl Iterator<Item = &Key> {
        let made = self.waypoints.iter().filter(|(_, w)| w.proven);
        made.map(|(key, _)| key)
    }

    /// The waypoints of the plan's own namespace.
    pub(super) fn own<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Waypoint)> {
        within(&self.waypoints, namespace)
    }

    /// The waypoint that a Service is reached through, or not at all.
    pub(in crate::index) fn in_force(&self, service: &str) -> Option<&Key> {
        self.services.get(service)?.in_force.as_ref()
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
            Asked::Waypoint(waypoint) | Asked::Instead(waypoint) => {
                if binding.in_force.is_some() && self.is_bound(waypoint) {
                    return (true, "Programmed", format!("waypoint {waypoint} routes by it"));
                }
                let obstacle = self.waypoints.get(waypoint).and_then(|w| w.obstacle.as_ref());
                let message = match obstacle {
                    Some(obstacle) => format!("there cannot be a waypoint {waypoint}: {obstacle}"),
                    None => format!("waypoint {waypoint} has had no ready replica yet"),
                };
                (false, "WaypointNotReady", message)
            }
        }
    }

    /// Whether a waypoint has been ready once.
    pub(super) fn is_bound(&self, waypoint: &Key) -> bool {
        self.waypoints.get(waypoint).is_some_and(|w| w.bound)
    }

    /// What a pod has from waypoints.
    pub(in crate::index) fn of_pod(&self, pod: &str) -> Option<&PodPlan> {
        self.pods.get(pod)
    }
}

/// One waypoint, and what it serves of the plan's namespace.
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
    /// Services of the namespace in its configuration.
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
pub(super) struct Maker<'a> {
    pub(super) index: &'a Index,
    pub(super) namespace: &'a str,
    pub(super) enrolled: bool,
    pub(super) labels: WaypointLabels,
    /// Waypoints that Gateways declare.
    pub(super) declared: BTreeMap<&'a str, Declared>,
    policies: Vec<(&'a Key, &'a PolicyInForce)>,
    pub(super) before: &'a Plan,
    /// The number of the latest timer.
    timer: u64,
    timers: Vec<Timer>,
}

/// What a Gateway says of its waypoint.
pub(super) struct Declared {
    waypoint_for: Option<WaypointFor>,
    /// Services of the namespace may use it.
    admits: bool,
}

/// The plan of `namespace` after `before`, and the timers that began.
pub(super) fn make(index: &Index, namespace: &str, before: &Plan) -> (Plan, Vec<Timer>) {
    let policies = index.policies_in_force_in(namespace);
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

impl<'a> Maker<'a> {
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
            let closed = binding.is_closed();
            let leads = |w: &Waypoint| self.enrolled && w.wanted && (w.bound || closed);
            let leads = |w: &&Key| plan.waypoints.get(*w).is_some_and(leads);
            binding.in_force = binding.asked.waypoint().filter(leads).cloned();
        }
        sharing::share(self.index, self.namespace, &mut plan.services);
        self.serve(&mut plan);
        let mut closed = BTreeMap::new();
        let behind_rules = self.behind_rules(&plan, &workloads);
        for (pod, waypoint) in workloads {
            let key = Key::new(self.namespace, waypoint.clone());
            if !plan.waypoints.get(&key).is_some_and(|w| w.bound) {
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
    pub(super) fn start(&mut self, service: &str, waypoint: &Key, after: Duration) -> u64 {
        self.timer += 1;
        self.timers.push(Timer {
            after,
            namespace: self.namespace.to_owned(),
            subject: service.to_owned(),
            what: What::Lingered(waypoint.clone()),
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
        let may_use = |waypoint: &Key| self.index.may_use(self.namespace, waypoint);
        let asked = Asked::of(record, self.namespace, &self.labels, targeted, may_use);
        // A Gateway's policies ask for no waypoint: they apply where the Gateway's is used.
        let of_gateway = asked.waypoint().map(|waypoint| self.of_gateway(waypoint));
        if let Some(of_gateway) = of_gateway.filter(|those| !those.is_empty()) {
            applying.whole = self.part(name, None, &of_gateway).0;
        }
        Binding {
            asked,
            applying,
            routes,
            ..Binding::default()
        }
    }

    /// The policies for the Gateway of a waypoint.
    fn of_gateway(&self, waypoint: &Key) -> Vec<(&'a Key, &'a PolicyInForce)> {
        let policies = self.index.in_force.range(waypoint.sibling("")..);
        let policies = policies.take_while(|(key, _)| key.namespace == waypoint.namespace);
        let those = policies.filter(|(_, p)| p.targets_gateway(&waypoint.name));
        those.map(|(key, policy)| (key, &**policy)).collect()
    }

    /// The policies for a Service, or for a port of it (`section`), with those for the Gateway of its waypoint; and whether some that decide
    /// name it.
    fn part(&self, name: &str, section: Option<&str>, of_gateway: &[(&Key, &PolicyInForce)]) -> (Part, bool) {
        let kind = TargetKind::Service.as_str();
        let distance = |key: &Key, p: &PolicyInForce| {
            if p.targets(kind, name, section) {
                Some(0)
            } else if section.is_some() {
                None
            } else if of_gateway.iter().any(|(of_gateway, _)| *of_gateway == key) {
                Some(1)
            } else {
                p.targets_namespace().then_some(2)
            }
        };
        let own = self.policies.iter();
        let own = own.filter_map(|(key, p)| Some((*key, *p, distance(key, p)?)));
        let those: Vec<_> = own.collect();
        let lent = of_gateway
            .iter()
            .filter(|(key, _)| key.namespace != self.namespace);
        let lent: Vec<_> = lent.copied().collect();
        let own = those.iter().any(|(_, p, distance)| *distance == 0 && p.decides());
        (Part::of(&those, &lent), own)
    }

    /// The policies that apply to a Service, whichever waypoint it uses.
    fn applying(&self, name: &str, record: &ServiceRecord, routes: &[Attachment]) -> Applying {
        let (whole, mut own) = self.part(name, None, &[]);
        let mut ports = BTreeMap::new();
        for (port_name, port) in &record.ports {
            let (part, decides) = self.part(name, Some(port_name), &[]);
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

    /// What a waypoint of the namespace is for.
    pub(super) fn waypoint_for(&self, waypoint: &str) -> WaypointFor {
        self.index.waypoint_for(&Key::new(self.namespace, waypoint))
    }

    /// Whether the namespace's pods may use a waypoint.
    fn takes_pods(&self, waypoint: &str) -> bool {
        let admits = self.declared.get(waypoint).is_none_or(|d| d.admits);
        admits && self.waypoint_for(waypoint).workloads()
    }

    /// What all of the namespace's pods and Services use where nothing of their own says otherwise, if that is a waypoint of the namespace:
    /// pods' own addresses are reached through no other namespace's.
    pub(super) fn default_waypoint(&self) -> Option<String> {
        let waypoint = match &self.labels.use_waypoint {
            Some(uses) => uses.waypoint(self.namespace)?,
            None => {
                let mut policies = self.policies.iter();
                policies
                    .any(|(_, p)| p.targets_namespace())
                    .then(|| Key::new(self.namespace, labels::WAYPOINT))?
            }
        };
        (waypoint.namespace == self.namespace).then_some(waypoint.name)
    }

    /// Pods behind Services that are guarded for rules of their own, or of a Gateway that is not that of the pod's waypoint (in `workloads`). At
    /// such a pod's own address these would not apply, and its waypoint is let in past the guard: it stays closed to direct calls instead.
    fn behind_rules(&self, plan: &Plan, workloads: &BTreeMap<String, String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (name, binding) in plan.services.iter().filter(|(_, b)| b.is_guarded()) {
            let (own, waypoint) = (binding.applying.own, binding.asked.waypoint());
            let of_gateway = |waypoint: &Key| {
                let mut policies = self.of_gateway(waypoint).into_iter();
                policies.any(|(_, p)| p.decides())
            };
            if !own && !waypoint.is_some_and(of_gateway) {
                continue;
            }
            let pods = guard::pods(self.index, &Key::new(self.namespace, name.clone()));
            let pods = pods.into_iter().map(|pod| pod.name);
            let same = |of_pod: &String| {
                waypoint.is_some_and(|w| w.namespace == self.namespace && w.name == *of_pod)
            };
            found.extend(pods.filter(|pod| own || !workloads.get(pod).is_some_and(same)));
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
        let default = self.default_waypoint();
        for (key, pod) in self.index.pods_in(self.namespace) {
            let name = match pod.use_waypoint() {
                Some(uses) => {
                    let waypoint = uses.waypoint(self.namespace);
                    waypoint.filter(|w| w.namespace == self.namespace).map(|w| w.name)
                }
                None => default.clone(),
            };
            let Some(name) = name.filter(|name| {
                self.takes_pods(name) && build::wanted(true, pod) && self.index.replica_of(key, pod).is_none()
            }) else {
                continue;
            };
            found.insert(key.name.clone(), name);
        }
        found
    }

    pub(super) fn workload_authorization(&self, waypoint: &str) -> Vec<String> {
        if !self.takes_pods(waypoint) {
            return Vec::new();
        }
        let applying = self
            .policies
            .iter()
            .filter(|(_, p)| p.has_rules() && (p.targets_namespace() || p.targets_gateway(waypoint)));
        applying.map(|(key, _)| key.name.clone()).collect()
    }
}
