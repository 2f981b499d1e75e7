//! What the statuses say of policies and waypoints, and what the reconciler makes waypoints of.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_crds::{Scaling, TargetRef, VersionInForce, parse_duration};

use crate::index::gateway::GatewayRecord;
use crate::index::{Index, Key};

/// How a waypoint scales: the AmbientNamespace's settings over the Mesh's over the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingSettings {
    /// Replicas at least.
    pub min: u32,
    /// Replicas at most; not below `min`.
    pub max: u32,
    /// Requests in flight that one replica is to have.
    pub target: u32,
    /// How long more must have been called for.
    pub up: Duration,
    /// How long fewer must have done.
    pub down: Duration,
}

impl Default for ScalingSettings {
    fn default() -> Self {
        Self {
            min: 1,
            max: 5,
            target: 100,
            up: Duration::ZERO,
            down: Duration::from_secs(300),
        }
    }
}

/// What a Gateway says about the objects of its waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// `metadata.uid` of the Gateway.
    pub uid: String,
    /// `spec.infrastructure.labels`
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`
    pub annotations: BTreeMap<String, String>,
}

impl Declaration {
    fn of(gateway: &GatewayRecord) -> Self {
        let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
        Self {
            uid: gateway.uid.clone(),
            labels: infrastructure.labels,
            annotations: infrastructure.annotations,
        }
    }
}

/// A replica of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointPod {
    /// Its name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// It is ready, and not on its way out.
    pub ready: bool,
}

/// A waypoint: one that is wanted, or one of which something is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaypointSummary {
    /// Its name, which is that of all its objects.
    pub name: String,
    /// A policy or a label asks for it.
    pub desired: bool,
    /// Its Service exists.
    pub service: bool,
    /// It has been ready once: what it serves is reached through it or not at all.
    pub bound: bool,
    /// What keeps it from being made, for a person: a Service of its name is somebody else's, or no Service can have its name.
    pub obstacle: Option<String>,
    /// Services that it serves.
    pub services: usize,
    /// The Gateway that declares it.
    pub declaration: Option<Declaration>,
    /// What it is for, as the label `istio.io/waypoint-for` of its Gateway or its namespace has it.
    pub waypoint_for: &'static str,
    /// How it scales.
    pub scaling: ScalingSettings,
    /// Its live pods, those on their way out too.
    pub pods: Vec<WaypointPod>,
}

impl WaypointSummary {
    /// How many of its pods are ready.
    pub fn ready(&self) -> usize {
        self.pods.iter().filter(|p| p.ready).count()
    }
}

/// A condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyReason {
    /// Accepted: it is understood, and its target is there.
    Accepted,
    /// Not accepted: there is no such Service, Gateway or route, or it has no such port or rule.
    TargetNotFound,
    /// Not accepted: a field says nothing that can be done.
    Invalid,
    /// Not accepted: it contradicts itself. Programmed, with a message: an older policy's timeout or retry goes before.
    Conflicted,
    /// Programmed: a waypoint enforces it.
    Programmed,
    /// Not programmed: the waypoint has no ready replica yet.
    WaypointNotReady,
    /// Not programmed: the namespace is not in the mesh.
    NamespaceNotEnrolled,
    /// Not programmed: the Service is headless, so nothing stands in front of its pods.
    NoVirtualAddress,
    /// Not programmed: there is no Mesh.
    NoMesh,
    /// Not programmed: a label keeps the waypoint away.
    OptedOut,
    /// Not programmed: the route is in force at no Service.
    RouteNotAttached,
}

impl PolicyReason {
    /// As conditions have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::TargetNotFound => "TargetNotFound",
            Self::Invalid => "Invalid",
            Self::Conflicted => "Conflicted",
            Self::Programmed => "Programmed",
            Self::WaypointNotReady => "WaypointNotReady",
            Self::NamespaceNotEnrolled => "NamespaceNotEnrolled",
            Self::NoVirtualAddress => "NoVirtualAddress",
            Self::NoMesh => "NoMesh",
            Self::OptedOut => "OptedOut",
            Self::RouteNotAttached => "RouteNotAttached",
        }
    }
}

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// True or False.
    pub status: bool,
    /// In one word.
    pub reason: PolicyReason,
    /// For a person.
    pub message: String,
}

/// What became of a policy at one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSummary {
    /// The target.
    pub target: TargetRef,
    /// The condition Accepted.
    pub accepted: PolicyVerdict,
    /// The condition Programmed.
    pub programmed: PolicyVerdict,
    /// The waypoint that enforces it now: this version, or the last one that was accepted.
    pub waypoint: Option<Key>,
    /// Pods that take connections from the waypoint and from probes alone; `None` where the policy has no authorization that decides.
    pub guarded_pods: Option<usize>,
}

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySummary {
    /// The `metadata.generation` that it was made from.
    pub generation: i64,
    /// One for each of `spec.targetRefs`, in order.
    pub targets: Vec<TargetSummary>,
    /// What holds, where that is not simply the spec.
    pub in_force: Option<VersionInForce>,
}

impl Index {
    /// The waypoints of a namespace, by name.
    pub fn waypoints_in(&self, namespace: &str) -> Vec<WaypointSummary> {
        let plan = self.plans.get(namespace);
        let known = plan.into_iter().flat_map(|p| p.own(namespace));
        let scaling = self.scaling(namespace);
        let declared = self.declared_in(namespace);
        let mut declared: BTreeMap<&str, Declaration> = declared
            .map(|(name, record, _)| (name, Declaration::of(record)))
            .collect();
        let mut found: BTreeMap<&str, WaypointSummary> = known
            .map(|(key, waypoint)| {
                let name = &key.name;
                let summary = WaypointSummary {
                    name: name.clone(),
                    desired: waypoint.wanted,
                    service: waypoint.service,
                    bound: waypoint.bound,
                    obstacle: waypoint.obstacle.clone(),
                    services: self.served_by(key).len(),
                    declaration: declared.remove(name.as_str()),
                    waypoint_for: waypoint.waypoint_for.as_str(),
                    scaling,
                    pods: Vec::new(),
                };
                (name.as_str(), summary)
            })
            .collect();
        for (key, pod) in self.pods_in(namespace) {
            let waypoint = self.replica_of(key, pod);
            let Some(summary) = waypoint.and_then(|w| found.get_mut(w)) else {
                continue;
            };
            summary.pods.push(WaypointPod {
                name: key.name.clone(),
                uid: pod.uid.clone(),
                ready: pod.ready && !pod.terminating,
            });
        }
        found.into_values().collect()
    }

    /// Namespaces that have a waypoint, wanted or still there.
    pub fn waypoint_namespaces(&self) -> Vec<String> {
        let mut plans = self.plans.iter();
        let with = plans
            .by_ref()
            .filter(|(namespace, plan)| plan.own(namespace).next().is_some());
        with.map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Whether the waypoint is one: its ServiceAccount and its Service are the operator's, and it is wanted or drains.
    pub fn has_waypoint(&self, namespace: &str, name: &str) -> bool {
        let plan = self.plans.get(namespace);
        let waypoint = plan.and_then(|p| p.waypoints.get(&Key::new(namespace, name)));
        waypoint.is_some_and(|w| w.proven)
    }

    /// How many configurations waypoints hold: each of their replicas one for each Service that it serves.
    pub fn configurations(&self) -> usize {
        let namespaces = self.waypoint_namespaces().into_iter();
        let waypoints = namespaces.flat_map(|namespace| self.waypoints_in(&namespace));
        waypoints.map(|w| w.ready() * w.services).sum()
    }

    fn scaling(&self, namespace: &str) -> ScalingSettings {
        let mesh = self.mesh.as_ref().map(|m| &m.scaling);
        let own = self.ambient.get(namespace).and_then(|a| a.waypoint.as_ref());
        let layers = [own, mesh];
        let first = |get: fn(&Scaling) -> Option<u32>| layers.into_iter().flatten().find_map(get);
        // What cannot be read counts as left out.
        let window = |get: fn(&Scaling) -> Option<&String>| {
            let mut given = layers.into_iter().flatten().filter_map(get);
            given.find_map(|text| parse_duration(text).ok())
        };
        let default = ScalingSettings::default();
        let min = first(|s| s.min_replicas).unwrap_or(default.min).max(1);
        ScalingSettings {
            min,
            max: first(|s| s.max_replicas).unwrap_or(default.max).max(min),
            target: first(|s| s.target_in_flight).unwrap_or(default.target).max(1),
            up: window(|s| s.scale_up_window.as_ref()).unwrap_or(default.up),
            down: window(|s| s.scale_down_window.as_ref()).unwrap_or(default.down),
        }
    }
}
