//! What the index keeps of a WaypointPolicy, and how it is read.

mod part;
mod read;
mod targets;

use std::sync::Arc;

use ambit_crds::{TargetKind, TargetRef, VersionInForce, WaypointPolicy, WaypointPolicySpec};
use ambit_wire::waypoint;
use kube::Resource;
use serde::Deserialize;

pub(super) use part::Part;

/// Why a policy cannot be accepted. The API server's validation lets few of these pass; the rest is for objects from before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PolicyError {
    /// A field says nothing that can be done.
    #[error("{field}: {reason}")]
    Invalid {
        /// Where, from `spec` on.
        field: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// Two rules say the opposite of the same requests.
    #[error(
        "{field}: rule {rule} contradicts rule {other}: both match the same requests, one allows what the other denies"
    )]
    Contradiction {
        /// The later rule, from `spec` on.
        field: String,
        /// Its name.
        rule: String,
        /// The earlier rule's name.
        other: String,
    },
}

/// Why something cannot be a policy's target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// A namespace that is not the policy's.
    #[error("the name is {name:?}, and only the policy's own namespace is possible: {namespace}")]
    OtherNamespace {
        /// What the target is called.
        name: String,
        /// The policy's.
        namespace: String,
    },
    /// An object that is not there.
    #[error("namespace {namespace} has no {kind} {name:?}")]
    NotFound {
        /// The target's kind.
        kind: &'static str,
        /// What the target is called.
        name: String,
        /// The policy's.
        namespace: String,
    },
    /// A part of an object that it does not have.
    #[error("{target} has no {part} with that name")]
    NoSection {
        /// The target.
        target: Box<TargetRef>,
        /// `TCP port` or `rule`.
        part: &'static str,
    },
    /// A Gateway of another class.
    #[error("the class of Gateway {name:?} is not one of Ambit's waypoints")]
    NoWaypoint {
        /// What the target is called.
        name: String,
    },
    /// A waypoint would be bound to itself.
    #[error("Service {name:?} belongs to a waypoint")]
    Waypoint {
        /// What the target is called.
        name: String,
    },
}

/// What the index keeps of a WaypointPolicy. Of its status no more than the version that it says is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRecord {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`, seconds since 1970: the oldest policy's timeout and retry go before the others'.
    pub created: i64,
    /// `spec.targetRefs`.
    pub targets: Vec<TargetRef>,
    /// What waypoints are sent, or why it cannot be sent.
    pub(super) content: Result<waypoint::Policy, PolicyError>,
    /// What is sent while `content` is an error and no older version is known: never more open than what was meant.
    pub(super) fallback: waypoint::Policy,
    spec: Arc<WaypointPolicySpec>,
    /// What an operator before this one wrote down as in force, where that is not the spec.
    written: Option<Arc<PolicyInForce>>,
}

impl PolicyRecord {
    /// The record of `policy`.
    pub fn of(policy: &WaypointPolicy) -> Self {
        let meta = &policy.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let created = meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let (content, fallback) = read::content(&namespace, &name, &policy.spec);
        let in_force = policy.status.as_ref().and_then(|s| s.in_force.as_ref());
        let written = in_force.and_then(|v| PolicyInForce::read(&namespace, &name, created, v));
        Self {
            generation: meta.generation.unwrap_or_default(),
            created,
            targets: policy.spec.target_refs.clone(),
            content,
            fallback,
            spec: Arc::new(policy.spec.clone()),
            written: written.map(Arc::new),
            name,
            namespace,
        }
    }
}

/// What holds of a policy: the last version that could be accepted, or what stands in for one that never could.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyInForce {
    /// The generation it is of.
    pub(super) generation: i64,
    /// As in [`PolicyRecord`].
    pub(super) created: i64,
    /// As in [`PolicyRecord`], and those of the version before while one of these is not there.
    pub(super) targets: Vec<TargetRef>,
    /// What waypoints are sent.
    pub(super) policy: waypoint::Policy,
    /// It stands in for one that never could be accepted: its rules as far as they can be read, or none that lets anybody through.
    pub(super) stands_in: bool,
    /// What it is read from.
    spec: Arc<WaypointPolicySpec>,
}

impl PolicyRecord {
    /// What holds now that the policy is this, and `before` held until now (`None`: nothing is known of it but what was written down);
    /// `known` tells which targets there are.
    ///
    /// Who misspells a target must not release what the policy protects: a version of which no target is there takes the place of none,
    /// and one of which some are there keeps the targets before as well. Whether those are there just now makes no difference: a Service that is
    /// made anew is away for a moment.
    pub(super) fn in_force(
        &self,
        before: Option<&Arc<PolicyInForce>>,
        known: impl Fn(&TargetRef) -> bool,
    ) -> Arc<PolicyInForce> {
        // What stands in is no version: what was written down goes before it.
        let mut versions = [before, self.written.as_ref()].into_iter().flatten();
        let good = versions.find(|b| !b.stands_in);
        let (policy, stands_in) = match (&self.content, good) {
            (Ok(policy), _) => (policy, false),
            (Err(_), Some(good)) => return Arc::clone(good),
            (Err(_), None) => (&self.fallback, true),
        };
        let mut targets = self.targets.clone();
        let unknown = targets.iter().filter(|t| !known(t)).count();
        if let Some(good) = good.filter(|_| unknown > 0 && !stands_in) {
            let kept = good.targets.iter().filter(|t| !self.targets.contains(t));
            let kept: Vec<TargetRef> = kept.cloned().collect();
            if unknown == targets.len() && !kept.is_empty() {
                return Arc::clone(good);
            }
            targets.extend(kept);
        }
        Arc::new(PolicyInForce {
            generation: self.generation,
            created: self.created,
            targets,
            policy: policy.clone(),
            stands_in,
            spec: Arc::clone(&self.spec),
        })
    }
}

impl PolicyInForce {
    /// What was written down; `None` when this operator cannot read it.
    fn read(namespace: &str, name: &str, created: i64, version: &VersionInForce) -> Option<Self> {
        let spec = match version.api_version == WaypointPolicy::api_version(&()) {
            true => WaypointPolicySpec::deserialize(&version.spec).map_err(|e| e.to_string()),
            false => Err(format!("it is of {}", version.api_version)),
        };
        let read = spec.and_then(|spec| {
            let content = read::content(namespace, name, &spec).0;
            content.map(|policy| (spec, policy)).map_err(|e| e.to_string())
        });
        match read {
            Ok((spec, policy)) => Some(Self {
                generation: version.generation,
                created,
                targets: spec.target_refs.clone(),
                policy,
                stands_in: false,
                spec: Arc::new(spec),
            }),
            Err(error) => {
                tracing::warn!(namespace, policy = name, error, "status.inForce cannot be read");
                None
            }
        }
    }

    /// What is to be written down of it, now that the policy is `record`: nothing where that says it all.
    pub(super) fn version(&self, record: &PolicyRecord) -> Option<VersionInForce> {
        let is_spec = self.generation == record.generation && self.targets == record.targets;
        if is_spec || self.stands_in {
            return None;
        }
        let spec = WaypointPolicySpec {
            target_refs: self.targets.clone(),
            ..WaypointPolicySpec::clone(&self.spec)
        };
        Some(VersionInForce {
            generation: self.generation,
            api_version: WaypointPolicy::api_version(&()).into_owned(),
            // It came as JSON.
            spec: serde_json::to_value(spec).unwrap_or_default(),
        })
    }

    /// Whether it is for this object by name; with a `section`, for this part of it alone.
    pub(super) fn targets(&self, kind: &str, name: &str, section: Option<&str>) -> bool {
        let of = |t: &TargetRef| t.kind.as_str() == kind && t.name == name;
        let mut all = self.targets.iter();
        all.any(|t| of(t) && t.section_name.as_deref() == section)
    }

    /// Whether it is for all Services of its namespace.
    pub(super) fn targets_namespace(&self) -> bool {
        self.targets
            .iter()
            .any(|t| t.kind == TargetKind::Namespace && t.name == self.policy.namespace)
    }

    /// Whether it is for all that is bound to this waypoint. A Gateway that is gone makes no difference: its waypoint may go on for others.
    pub(super) fn targets_gateway(&self, waypoint: &str) -> bool {
        self.targets
            .iter()
            .any(|t| t.kind == TargetKind::Gateway && t.name == waypoint)
    }

    /// Whether it has rules, be it only to report.
    pub(super) fn has_rules(&self) -> bool {
        !self.policy.authorization.is_empty()
    }

    /// Whether it has rules that decide.
    pub(super) fn decides(&self) -> bool {
        self.policy.authorization.iter().any(|r| !r.audit)
    }
}
