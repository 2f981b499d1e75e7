//! What became of a policy, target by target.

mod notes;
mod route;

use std::collections::BTreeSet;

use ambit_crds::{Enrollment, TargetKind, TargetRef, labels};

use super::binding::{Asked, Binding, OptOut};
use super::plan::{Plan, Waypoint};
use super::summary::{PolicyReason, PolicySummary, PolicyVerdict, TargetSummary};
use crate::index::policy::{PolicyError, PolicyInForce, TargetError};
use crate::index::{Index, Key, PolicyRecord};

/// Most Services that a message lists.
const LISTED: usize = 5;

fn verdict(status: bool, reason: PolicyReason, message: impl Into<String>) -> PolicyVerdict {
    PolicyVerdict {
        status,
        reason,
        message: message.into(),
    }
}

fn understood() -> PolicyVerdict {
    verdict(true, PolicyReason::Accepted, "the policy is valid")
}

/// Services behind one target.
type Behind<'a> = Vec<(&'a str, &'a Binding)>;

/// What the verdicts on one policy are made from.
struct Judge<'a> {
    index: &'a Index,
    record: &'a PolicyRecord,
    holds: &'a PolicyInForce,
    plan: &'a Plan,
}

impl Index {
    /// What became of a policy; `None` when there is no such policy.
    pub fn policy_summary(&self, policy: &Key) -> Option<PolicySummary> {
        let record = self.policies.get(policy)?;
        let empty = Plan::default();
        let judge = Judge {
            index: self,
            record,
            holds: self.in_force.get(policy)?,
            plan: self.plans.get(&policy.namespace).unwrap_or(&empty),
        };
        let targets = record.targets.iter().enumerate();
        Some(PolicySummary {
            generation: record.generation,
            targets: targets.map(|(n, target)| judge.target(n, target)).collect(),
            in_force: judge.holds.version(record),
        })
    }
}

impl<'a> Judge<'a> {
    fn target(&self, n: usize, target: &TargetRef) -> TargetSummary {
        let accepted = self.accepted(n, target);
        // What holds may be an older version, for other targets.
        let held = self.holds.targets.contains(target);
        let behind: Behind = self.behind(target);
        let guarded: BTreeSet<&String> = behind.iter().flat_map(|(_, b)| &b.guarded).collect();
        let elsewhere = self.borrowing(target).into_iter();
        let guarded = guarded.len() + elsewhere.map(|(_, b)| b.guarded.len()).sum::<usize>();
        let programmed = self.programmed(target, &accepted, &behind);
        let mut enforced_by = behind.iter().filter_map(|(_, b)| b.in_force.clone());
        let of_pods = || {
            let name = self.plan.pods.values().find_map(|p| p.waypoint.as_ref())?;
            Some(self.sibling(name))
        };
        let foreign = || {
            let foreign = self.foreign(target).into_iter();
            foreign.filter_map(|(_, b)| b.in_force.clone()).next()
        };
        let waypoint = match target.kind {
            TargetKind::Service => enforced_by.next(),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => enforced_by.next(),
            TargetKind::Namespace => enforced_by
                .next()
                .or_else(|| of_pods().filter(|_| self.holds.has_rules()))
                .or_else(|| self.idle(target).filter(|_| programmed.status)),
            TargetKind::Gateway => enforced_by.next().or_else(|| {
                let key = self.sibling(&target.name);
                (self.plan.waypoints.contains_key(&key) && programmed.status).then_some(key)
            }),
        };
        TargetSummary {
            target: target.clone(),
            waypoint: waypoint.or_else(foreign).filter(|_| held),
            guarded_pods: (held && self.holds.decides()).then_some(guarded),
            accepted,
            programmed,
        }
    }

    fn accepted(&self, n: usize, target: &TargetRef) -> PolicyVerdict {
        let namespace = &self.record.namespace;
        if let Err(error) = &self.record.content {
            let reason = match error {
                PolicyError::Invalid { .. } => PolicyReason::Invalid,
                PolicyError::Contradiction { .. } => PolicyReason::Conflicted,
            };
            let until = if !self.holds.stands_in {
                self.older()
            } else if self.holds.has_rules() {
                "until then every request is denied that its rules could deny".to_owned()
            } else {
                "no version of it is in force".to_owned()
            };
            return verdict(false, reason, format!("{error}; {until}"));
        }
        let field = format!("spec.targetRefs[{n}]");
        let (reason, message) = match self.index.check_target(namespace, target) {
            Ok(()) => return understood(),
            Err(error @ (TargetError::NotFound { .. } | TargetError::NoSection { .. })) => {
                (PolicyReason::TargetNotFound, format!("{field}: {error}"))
            }
            Err(error) => (PolicyReason::Invalid, format!("{field}.name: {error}")),
        };
        let until = match self.kept() {
            _ if self.holds.generation != self.record.generation => format!("; {}", self.older()),
            _ if target.kind == TargetKind::Gateway && !self.behind(target).is_empty() => format!(
                "; the policy is in force for Services that use a waypoint of this name: {}",
                list(&names(&self.behind(target)))
            ),
            kept if kept.is_empty() => String::new(),
            kept => format!("; until then the policy stays in force for {}, too", list(&kept)),
        };
        verdict(false, reason, message + &until)
    }

    fn older(&self) -> String {
        format!("generation {} stays in force until then", self.holds.generation)
    }

    /// Targets of the version before, which it keeps while one of its own is not there; those of them that are there.
    fn kept(&self) -> Vec<String> {
        let kept = self.holds.targets.iter().filter(|t| {
            let is_there = || self.index.check_target(&self.record.namespace, t).is_ok();
            !self.record.targets.contains(t) && is_there()
        });
        kept.map(ToString::to_string).collect()
    }

    /// The Services that the target stands for.
    fn behind(&self, target: &TargetRef) -> Behind<'a> {
        let all = self.plan.services.iter().map(|(name, b)| (name.as_str(), b));
        match target.kind {
            TargetKind::Service => all.filter(|(name, _)| *name == target.name).collect(),
            TargetKind::Namespace if target.name == self.record.namespace => all.collect(),
            TargetKind::Namespace => Vec::new(),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => {
                let parents = self.parents(target);
                all.filter(|(name, _)| {
                    let mut own = parents.iter().filter(|p| p.namespace == self.record.namespace);
                    own.any(|parent| parent.name == *name)
                })
                .collect()
            }
            TargetKind::Gateway => {
                let waypoint = self.sibling(&target.name);
                all.filter(|(_, b)| b.asked.waypoint() == Some(&waypoint))
                    .collect()
            }
        }
    }

    /// The Services of other namespaces that use the waypoint of a target that is a Gateway.
    fn borrowing(&self, target: &TargetRef) -> Vec<(Key, &'a Binding)> {
        if target.kind != TargetKind::Gateway {
            return Vec::new();
        }
        let waypoint = self.sibling(&target.name);
        let served = self.index.served_by(&waypoint).into_iter();
        let using = served.filter(|(_, b)| b.in_force.as_ref() == Some(&waypoint));
        using
            .filter(|(key, _)| key.namespace != self.record.namespace)
            .collect()
    }

    fn programmed(&self, target: &TargetRef, accepted: &PolicyVerdict, behind: &Behind<'a>) -> PolicyVerdict {
        let namespace = &self.record.namespace;
        if !accepted.status {
            return verdict(false, accepted.reason, "the policy is not accepted");
        }
        if self.index.active_mesh().is_none() {
            return verdict(
                false,
                PolicyReason::NoMesh,
                "no Mesh exists: create the one named default",
            );
        }
        if !self.index.is_enrolled(namespace) {
            let refused = self.index.ambient.get(namespace);
            let message = if self.index.is_exempt(namespace) {
                format!("namespace {namespace} can never be in the mesh")
            } else if refused.is_some_and(|a| a.enrollment == Enrollment::None) {
                format!("namespace {namespace} is not in the mesh: its AmbientNamespace has enrollment: None")
            } else {
                format!(
                    "namespace {namespace} is not in the mesh: label it {}={}",
                    labels::DATAPLANE_MODE,
                    labels::DATAPLANE_MODE_AMBIENT
                )
            };
            return verdict(false, PolicyReason::NamespaceNotEnrolled, message);
        }
        match target.kind {
            TargetKind::Service => self.service(target, behind),
            TargetKind::Namespace => self.namespace(target, behind),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => self.route(target, behind),
            TargetKind::Gateway => self.gateway(target, behind),
        }
    }

    fn service(&self, target: &TargetRef, behind: &Behind<'a>) -> PolicyVerdict {
        let Some((name, binding)) = behind.first() else {
            return verdict(
                false,
                PolicyReason::WaypointNotReady,
                "the Service is about to be bound",
            );
        };
        match &binding.asked {
            Asked::OptedOut(why) => verdict(
                false,
                PolicyReason::OptedOut,
                format!("Service {name} has no waypoint: {why}"),
            ),
            Asked::NoVirtualAddress => verdict(
                false,
                PolicyReason::NoVirtualAddress,
                format!(
                    "Service {name} is headless: clients connect to the addresses of its pods, and not \
                     through a waypoint"
                ),
            ),
            Asked::No => verdict(
                false,
                PolicyReason::WaypointNotReady,
                "the Service is about to be bound",
            ),
            Asked::Waypoint(waypoint) | Asked::Instead(waypoint) if !self.leads(binding) => {
                self.not_ready(waypoint)
            }
            Asked::Waypoint(waypoint) | Asked::Instead(waypoint) => {
                self.enforced(target, waypoint, behind, &[])
            }
        }
    }

    /// Whether it is reached through a waypoint that has been ready.
    fn leads(&self, binding: &Binding) -> bool {
        let waypoint = binding.in_force.as_ref();
        waypoint.is_some_and(|waypoint| self.plan.is_bound(waypoint))
    }

    fn gateway(&self, target: &TargetRef, behind: &Behind<'a>) -> PolicyVerdict {
        let key = self.sibling(&target.name);
        let waypoint = self.plan.waypoints.get(&key);
        let stands = waypoint.is_some_and(|w| w.wanted && w.bound);
        if stands && behind.iter().all(|(_, b)| b.in_force.is_some()) {
            self.enforced(target, &key, behind, &[])
        } else {
            self.not_ready(&key)
        }
    }

    fn namespace(&self, target: &TargetRef, behind: &Behind<'a>) -> PolicyVerdict {
        let namespace = &self.record.namespace;
        let labels = self
            .index
            .waypoint_labels
            .get(namespace)
            .cloned()
            .unwrap_or_default();
        let own = self.default_waypoint(target);
        let own = own.and_then(|key| self.plan.waypoints.get(&key));
        let own = own.map(|w| w.waypoint_for);
        let waypoint_for = own.unwrap_or(labels.waypoint_for);
        let any = behind.iter().any(|(_, b)| b.asked.waypoint().is_some());
        if !(any || waypoint_for.services() || waypoint_for.workloads() && self.holds.has_rules()) {
            let why = match own {
                Some(own) if own != labels.waypoint_for => OptOut::Gateway(own),
                _ => OptOut::For(waypoint_for),
            };
            return verdict(
                false,
                PolicyReason::OptedOut,
                format!("the policy is for Services: {why}"),
            );
        }
        let through = behind.iter().filter(|(_, b)| b.asked.waypoint().is_some());
        let through: Behind = through.copied().collect();
        let left_out: Vec<String> = behind.iter().filter_map(|(name, b)| left_out(name, b)).collect();
        let waiting = through.iter().find(|(_, b)| !self.leads(b));
        if let Some(waypoint) = waiting.and_then(|(_, b)| b.asked.waypoint()) {
            return self.not_ready(waypoint);
        }
        if let Some(waypoint) = through.first().and_then(|(_, b)| b.in_force.as_ref()) {
            return self.enforced(target, waypoint, &through, &left_out);
        }
        match self.idle(target) {
            None if labels
                .use_waypoint
                .as_ref()
                .is_some_and(|uses| uses.waypoint(namespace).is_none()) =>
            {
                verdict(
                    false,
                    PolicyReason::OptedOut,
                    format!("no Service has a waypoint: {}", OptOut::Namespace),
                )
            }
            Some(waypoint) if self.state(&waypoint).is_some_and(|w| w.bound) => {
                self.enforced(target, &waypoint, &through, &left_out)
            }
            Some(waypoint) => self.not_ready(&waypoint),
            None if behind.iter().any(|(_, b)| b.asked == Asked::NoVirtualAddress) => verdict(
                false,
                PolicyReason::NoVirtualAddress,
                format!("no Service can have a waypoint: {}", list(&left_out)),
            ),
            None if left_out.is_empty() => verdict(
                false,
                PolicyReason::WaypointNotReady,
                format!("namespace {namespace} has no Service that could use a waypoint yet"),
            ),
            None => verdict(
                false,
                PolicyReason::OptedOut,
                format!("no Service has a waypoint: {}", list(&left_out)),
            ),
        }
    }

    /// The waypoint that stands ready for a namespace of which no Service is bound.
    fn idle(&self, target: &TargetRef) -> Option<Key> {
        let waypoint = self.default_waypoint(target)?;
        self.state(&waypoint)?.wanted.then_some(waypoint)
    }

    /// A waypoint, of the namespace or of another whose waypoint it may use.
    fn state(&self, waypoint: &Key) -> Option<&'a Waypoint> {
        let own = self.plan.waypoints.get(waypoint);
        own.or_else(|| {
            self.index.may_use(&self.record.namespace, waypoint).ok()?;
            self.index.plans.get(&waypoint.namespace)?.waypoints.get(waypoint)
        })
    }

    /// What the target, a namespace, uses where nothing of a Service says otherwise.
    fn default_waypoint(&self, target: &TargetRef) -> Option<Key> {
        let labels = self.index.waypoint_labels.get(&target.name);
        match labels.and_then(|labels| labels.use_waypoint.as_ref()) {
            Some(uses) => uses.waypoint(&target.name),
            None => Some(Key::new(target.name.clone(), labels::WAYPOINT)),
        }
    }

    /// Something of the policy's namespace.
    fn sibling(&self, name: &str) -> Key {
        Key::new(self.record.namespace.clone(), name)
    }

    fn not_ready(&self, waypoint: &Key) -> PolicyVerdict {
        let message = match self.state(waypoint).and_then(|w| w.obstacle.as_ref()) {
            Some(obstacle) => format!("there cannot be a waypoint {waypoint}: {obstacle}"),
            None => format!("waypoint {waypoint} has had no ready replica yet"),
        };
        verdict(false, PolicyReason::WaypointNotReady, message)
    }

    fn enforced(
        &self,
        target: &TargetRef,
        waypoint: &Key,
        behind: &Behind<'a>,
        left_out: &[String],
    ) -> PolicyVerdict {
        let mut message = format!("waypoint {waypoint} enforces it");
        let others: BTreeSet<&Key> = behind
            .iter()
            .filter_map(|(_, b)| b.in_force.as_ref())
            .filter(|w| *w != waypoint)
            .collect();
        for other in others {
            message += &format!(", and {other}");
        }
        let notes = self.notes(target, behind, left_out);
        if !notes.is_empty() {
            message = format!("{message}; {}", notes.join("; "));
        }
        verdict(true, PolicyReason::Programmed, message)
    }
}

fn names(behind: &Behind) -> Vec<String> {
    behind.iter().map(|(name, _)| (*name).to_owned()).collect()
}

fn left_out(name: &str, binding: &Binding) -> Option<String> {
    match &binding.asked {
        Asked::OptedOut(why) => Some(format!("{name} ({why})")),
        Asked::NoVirtualAddress => Some(format!("{name} (headless)")),
        Asked::No | Asked::Waypoint(_) | Asked::Instead(_) => None,
    }
}

fn list(services: &[String]) -> String {
    match services.get(LISTED..) {
        None | Some([]) => services.join(", "),
        Some(more) => format!("{} and {} more", services[..LISTED].join(", "), more.len()),
    }
}
