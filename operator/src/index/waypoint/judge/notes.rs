//! What else is to be said of a policy that is enforced: whom it applies to besides, and what goes before it.

use std::collections::BTreeSet;

use ambit_crds::{TargetKind, TargetRef};

use super::{Behind, Judge, list};
use crate::index::Key;
use crate::index::policy::Part;
use crate::index::waypoint::binding::Binding;

impl<'a> Judge<'a> {
    /// In a sentence each.
    pub(super) fn notes(&self, target: &TargetRef, behind: &Behind<'a>, left_out: &[String]) -> Vec<String> {
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
        let elsewhere = self.borrowing(target).into_iter();
        let elsewhere: Vec<String> = elsewhere.map(|(key, _)| format!("Service {key}")).collect();
        if !elsewhere.is_empty() {
            notes.push(format!(
                "it also applies to {} of other namespaces",
                list(&elsewhere)
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
        let lent: BTreeSet<&Key> = behind
            .iter()
            .flat_map(|(_, b)| &b.applying.whole.lent_deciding)
            .collect();
        if !lent.is_empty() {
            let lent: Vec<String> = lent.into_iter().map(Key::to_string).collect();
            notes.push(format!(
                "requests also have to pass {}, which is for the Gateway of the waypoint",
                list(&lent)
            ));
        }
        if !left_out.is_empty() {
            notes.push(format!("not for {}", list(left_out)));
        }
        notes
    }

    /// Other Services that lead through a waypoint to pods that the policy protects: it holds there too.
    fn shared(&self, behind: &Behind<'a>) -> Vec<String> {
        let own = self.sibling(&self.record.name);
        let others = self.plan.services.iter().filter(|(name, binding)| {
            let mut sets = binding
                .applying
                .parts()
                .flat_map(|part| part.others.iter().chain(&part.of_routes));
            binding.in_force.is_some()
                && sets.any(|set| set.contains(&own))
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
        let own = self.sibling(&self.record.name);
        let others: BTreeSet<&Key> = others.filter(|other| **other != own).collect();
        others.into_iter().map(Key::to_string).collect()
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
        applies: impl Fn(&'a Binding) -> Option<&'a Key>,
    ) -> Option<String> {
        let own = self.sibling(&self.record.name);
        let others: Vec<_> = behind
            .iter()
            .filter_map(|(service, b)| Some((service, applies(b).filter(|other| **other != own)?)))
            .collect();
        let (service, other) = others.first()?;
        let more = match others.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        Some(format!(
            "at Service {service}{more}, {other} has precedence for its {part}"
        ))
    }
}
