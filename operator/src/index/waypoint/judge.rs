//! What became of a policy, target by target.

mod route;

use std::collections::BTreeSet;

use ambit_crds::{Enrollment, TargetKind, TargetRef, labels};

use super::binding::{Asked, Binding, OptOut};
use super::plan::Plan;
use super::summary::{PolicyReason, PolicySummary, PolicyVerdict, TargetSummary};
use crate::index::policy::{Part, PolicyError, PolicyInForce, TargetError};
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
        let programmed = self.programmed(target, &accepted, &behind);
        let mut enforced_by = behind.iter().filter_map(|(_, b)| b.in_force.as_deref());
        let of_pods = || self.plan.pods.values().find_map(|p| p.waypoint.as_deref());
        let foreign = || {
            self.foreign(target)
                .into_iter()
                .find_map(|(key, b)| Some((key.namespace, b.in_force.as_deref()?)))
        };
        let waypoint = match target.kind {
            TargetKind::Service => enforced_by.next(),
            TargetKind::HttpRoute | TargetKind::GrpcRoute => enforced_by.next(),
            TargetKind::Namespace => enforced_by
                .next()
                .or_else(|| of_pods().filter(|_| self.holds.has_rules()))
                .or_else(|| self.idle(target).filter(|_| programmed.status)),
            TargetKind::Gateway => enforced_by.next().or_else(|| {
                let (name, _) = self.plan.waypoints.get_key_value(&target.name)?;
                programmed.status.then_some(name.as_str())
            }),
        };
        TargetSummary {
            target: target.clone(),
            waypoint: waypoint
                .map(|name| Key::new(self.record.namespace.clone(), name))
                .or_else(|| foreign().map(|(namespace, name)| Key::new(namespace, name)))
                .filter(|_| held),
            guarded_pods: (held && self.holds.decides()).then_some(guarded.len()),
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
            TargetKind::Gateway => all
                .filter(|(_, b)| b.asked.waypoint() == Some(&*target.name))
                .collect(),
        }
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
            Asked::Waypoint(waypoint) if binding.in_force.is_none() => self.not_ready(waypoint),
            Asked::Waypoint(waypoint) => self.enforced(target, waypoint, behind, &[]),
        }
    }

    fn gateway(&self, target: &TargetRef, behind: &Behind<'a>) -> PolicyVerdict {
        let waypoint = self.plan.waypoints.get(&target.name);
        let stands = waypoint.is_some_and(|w| w.wanted && w.bound);
        if stands && behind.iter().all(|(_, b)| b.in_force.is_some()) {
            self.enforced(target, &target.name, behind, &[])
        } else {
            self.not_ready(&target.name)
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
        let name = labels.use_waypoint.as_deref().unwrap_or(labels::WAYPOINT);
        let own = self.plan.waypoints.get(name).map(|w| w.waypoint_for);
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
        let waiting = through.iter().find(|(_, b)| b.in_force.is_none());
        if let Some(waypoint) = waiting.and_then(|(_, b)| b.asked.waypoint()) {
            return self.not_ready(waypoint);
        }
        if let Some(waypoint) = through.first().and_then(|(_, b)| b.in_force.as_deref()) {
            return self.enforced(target, waypoint, &through, &left_out);
        }
        match self.idle(target) {
            None if labels.use_waypoint.as_deref() == Some(labels::USE_WAYPOINT_NONE) => verdict(
                false,
                PolicyReason::OptedOut,
                format!("no Service has a waypoint: {}", OptOut::Namespace),
            ),
            Some(waypoint) if self.plan.waypoints.get(waypoint).is_some_and(|w| w.bound) => {
                self.enforced(target, waypoint, &through, &left_out)
            }
            Some(waypoint) => self.not_ready(waypoint),
            None if behind.iter().any(|(_, b)| b.asked == Asked::NoVirtualAddress) => verdict(
                false,
                PolicyReason::NoVirtualAddress,
                format!("no Service can have a waypoint: {}", list(&left_out)),
            ),
            None => verdict(
                false,
                PolicyReason::OptedOut,
                format!("no Service has a waypoint: {}", list(&left_out)),
            ),
        }
    }

    /// The waypoint that stands ready for a namespace of which no Service is bound.
    fn idle(&self, target: &TargetRef) -> Option<&'a str> {
        let label = self.index.waypoint_labels.get(&target.name);
        let name = label.and_then(|l| l.use_waypoint.as_deref());
        let (name, _) = self
            .plan
            .waypoints
            .get_key_value(name.unwrap_or(labels::WAYPOINT))?;
        self.plan.waypoints[name].wanted.then_some(name)
    }

    fn not_ready(&self, waypoint: &str) -> PolicyVerdict {
        let state = self.plan.waypoints.get(waypoint);
        let full = format!("{}/{waypoint}", self.record.namespace);
        let message = match state {
            Some(w) if w.obstacle.is_some() => {
                format!(
                    "there cannot be a waypoint {full}: {}",
                    w.obstacle.as_deref().unwrap_or_default()
                )
            }
            _ => format!("waypoint {full} has had no ready replica yet"),
        };
        verdict(false, PolicyReason::WaypointNotReady, message)
    }

    fn enforced(
        &self,
        target: &TargetRef,
        waypoint: &str,
        behind: &Behind<'a>,
        left_out: &[String],
    ) -> PolicyVerdict {
        let namespace = &self.record.namespace;
        let mut message = format!("waypoint {namespace}/{waypoint} enforces it");
        let others: BTreeSet<&str> = behind
            .iter()
            .filter_map(|(_, b)| b.in_force.as_deref())
            .filter(|w| *w != waypoint)
            .collect();
        for other in others {
            message += &format!(", and {namespace}/{other}");
        }
        let notes = self.notes(target, behind, left_out);
        if !notes.is_empty() {
            message = format!("{message}; {}", notes.join("; "));
        }
        verdict(true, PolicyReason::Programmed, message)
    }

    /// What else is to be said of a policy that is enforced.
    fn notes(&self, target: &TargetRef, behind: &Behind<'a>, left_out: &[String]) -> Vec<String> {
        let mut notes = self.overridden(target, behind);
        let unguarded: BTreeSet<&String> = behind.iter().flat_map(|(_, b)| &b.unguarded).collect();
        if !unguarded.is_empty() && self.holds.decides() {
            notes.push(format!(
                "connections to the addresses of {} pods bypass it, since these pods are not captured",
                unguarded.len()
            ));
        }
        let bare: BTreeSet<_> = behind.iter().flat_map(|(_, b)| &b.bare).collect();
        if !bare.is_empty() && self.holds.decides() {
            notes.push(format!(
                "nothing guards {} endpoints, since their EndpointSlice names no pods",
                bare.len()
            ));
        }
        let shared = self.shared(behind);
        if !shared.is_empty() {
            notes.push(format!(
                "it also applies to {}, since the same pods are reached through it",
                list(&shared)
            ));
        }
        let joined = self.joined(behind);
        if !joined.is_empty() {
            notes.push(format!(
                "requests also have to pass {}, since another Service of the same pods has it",
                list(&joined)
            ));
        }
        if !left_out.is_empty() {
            notes.push(format!("not for {}", list(left_out)));
        }
        notes
    }

    /// Other Services that lead through a waypoint to pods that the policy protects: it holds there too.
    fn shared(&self, behind: &Behind<'a>) -> Vec<String> {
        let others = self.plan.services.iter().filter(|(name, binding)| {
            let mut sets = binding
                .applying
                .parts()
                .flat_map(|part| part.others.iter().chain(&part.of_routes));
            binding.in_force.is_some()
                && sets.any(|set| set.contains(&self.record.name))
                && !behind.iter().any(|(own, _)| own == name)
        });
        others.map(|(name, _)| format!("Service {name}")).collect()
    }

    /// Policies of other Services that hold at these too.
    fn joined(&self, behind: &Behind<'a>) -> Vec<String> {
        let others = behind
            .iter()
            .flat_map(|(_, b)| b.applying.parts())
            .flat_map(|part| part.others.iter().chain(&part.of_routes).flatten());
        let others: BTreeSet<&String> = others.filter(|name| **name != self.record.name).collect();
        let namespace = &self.record.namespace;
        others
            .into_iter()
            .map(|name| format!("{namespace}/{name}"))
            .collect()
    }

    /// Parts of the policy that give way to another's.
    fn overridden(&self, target: &TargetRef, behind: &Behind<'a>) -> Vec<String> {
        if matches!(target.kind, TargetKind::HttpRoute | TargetKind::GrpcRoute) {
            return self.overridden_at_route(target);
        }
        let policy = &self.holds.policy;
        let mut notes = Vec::new();
        if policy.timeout.is_some() {
            notes.extend(self.gives_way("timeouts", behind, |b| self.part(b, target)?.timeout.as_ref()));
        }
        if policy.retry.is_some() {
            notes.extend(self.gives_way("retry", behind, |b| self.part(b, target)?.retry.as_ref()));
        }
        notes
    }

    /// The policies with a target like this.
    fn part(&self, binding: &'a Binding, target: &TargetRef) -> Option<&'a Part> {
        let Some(section) = &target.section_name else {
            return Some(&binding.applying.whole);
        };
        let service = Key::new(self.record.namespace.clone(), target.name.clone());
        let port = self.index.services.get(&service)?.ports.get(section)?;
        binding.applying.ports.get(&port.port)
    }

    fn gives_way(
        &self,
        part: &str,
        behind: &Behind<'a>,
        applies: impl Fn(&'a Binding) -> Option<&'a String>,
    ) -> Option<String> {
        let (own, namespace) = (&self.record.name, &self.record.namespace);
        let others: Vec<_> = behind
            .iter()
            .filter_map(|(service, b)| Some((service, applies(b).filter(|other| *other != own)?)))
            .collect();
        let (service, other) = others.first()?;
        let more = match others.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        Some(format!(
            "at Service {service}{more}, {namespace}/{other} has precedence for its {part}"
        ))
    }
}

fn names(behind: &Behind) -> Vec<String> {
    behind.iter().map(|(name, _)| (*name).to_owned()).collect()
}

fn left_out(name: &str, binding: &Binding) -> Option<String> {
    match &binding.asked {
        Asked::OptedOut(why) => Some(format!("{name} ({why})")),
        Asked::NoVirtualAddress => Some(format!("{name} (headless)")),
        Asked::No | Asked::Waypoint(_) => None,
    }
}

fn list(services: &[String]) -> String {
    match services.get(LISTED..) {
        None | Some([]) => services.join(", "),
        Some(more) => format!("{} and {} more", services[..LISTED].join(", "), more.len()),
    }
}
