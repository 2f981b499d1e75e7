//! What the statuses say of policies and waypoints, and what the reconciler makes waypoints of.

use std::time::Duration;

use ambit_crds::{ConfigurationStatus, TargetRef};

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
    pub wanted: bool,
    /// Its Service exists.
    pub service: bool,
    /// It has been ready once: what it serves is reached through it or not at all. Stays true while it is wanted, even if its Service is
    /// deleted by hand: the annotation belongs on the new one at once.
    pub bound: bool,
    /// What keeps it from being made, for a person: a Service of its name is somebody else's, or no Service can have its name.
    pub obstacle: Option<String>,
    /// Services that it serves.
    pub services: usize,
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
    /// Not accepted: there is no such Service.
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
    /// The waypoint of the policy's namespace that enforces it now: this version, or the last one that was accepted.
    pub waypoint: Option<String>,
    /// Pods that take connections from the waypoint and from probes alone; `None` where the policy has no authorization that decides.
    pub guarded_pods: Option<usize>,
}

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySummary {
    /// The `metadata.generation` that it was made from.
    pub generation: i64,
    /// One for each of `spec.targetRefs`, in order.
    pub targets: Vec<TargetSummary>,
}

impl Index {
    /// What became of a policy; `None` when there is no such policy.
    pub fn policy_summary(&self, policy: &Key) -> Option<PolicySummary> {
        let record = self.policies.get(policy)?;
        Some(PolicySummary {
            generation: record.generation,
            targets: Vec::new(),
        })
    }

    /// The waypoints of a namespace, by name.
    pub fn waypoints_in(&self, _namespace: &str) -> Vec<WaypointSummary> {
        Vec::new()
    }

    /// Namespaces that have a waypoint, wanted or still there.
    pub fn waypoint_namespaces(&self) -> Vec<String> {
        Vec::new()
    }

    /// What waypoints were told, against what sidecars would have been told.
    pub fn configuration(&self) -> ConfigurationStatus {
        ConfigurationStatus::default()
    }
}
