//! The rules of several policies as one, and sets of these.

use std::sync::Arc;

use ambit_policy::http::{HttpRequest, HttpRule, evaluate};
use ambit_policy::{Decision, Reason, Verdict};
use ambit_wire::waypoint_policy::WaypointPolicy;

/// All rules that apply to a destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleSet {
    /// Each set decides separately; a request has to pass all of them.
    sets: Arc<[Arc<[HttpRule]>]>,
    /// A policy that applies and has not been received: closed until it arrives.
    missing: Option<Arc<str>>,
    has_path_rules: bool,
    has_enforced_path_rules: bool,
}

impl RuleSet {
    /// The rules of these policies, all together.
    pub(super) fn resolve(names: &[Arc<str>], policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        Self::default().and(&[names], policy)
    }

    /// With the rules of these sets of policies, too.
    pub(super) fn and(
        &self,
        sets: &[impl AsRef<[Arc<str>]>],
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        if sets.is_empty() {
            return self.clone();
        }
        let mut missing = self.missing.clone();
        let mut set = |names: &[Arc<str>]| -> Arc<[HttpRule]> {
            let mut rules = Vec::new();
            for name in names {
                match policy(name) {
                    Some(policy) => rules.extend_from_slice(&policy.rules),
                    None => missing = missing.take().or_else(|| Some(Arc::clone(name))),
                }
            }
            rules.into()
        };
        let more = sets.iter().map(|names| set(names.as_ref()));
        let sets: Arc<[_]> = self.sets.iter().cloned().chain(more).collect();
        let rules = || sets.iter().flat_map(|set| set.iter());
        Self {
            has_enforced_path_rules: rules().any(|rule| !rule.audit && !rule.paths.is_empty()),
            has_path_rules: rules().any(|rule| !rule.paths.is_empty()),
            missing,
            sets,
        }
    }

    /// With rules that are not known, of `what`: nothing passes until they are.
    pub(super) fn lacking(mut self, what: &str) -> Self {
        self.missing = self.missing.or_else(|| Some(format!("of {what}").into()));
        self
    }

    /// Nothing passes until the policies that apply are known.
    pub(super) fn unknown() -> Self {
        Self {
            missing: Some("the waypoint's settings".into()),
            ..Self::default()
        }
    }

    /// Whether an enforced rule compares paths: malformed ones cannot pass then.
    pub(crate) fn has_enforced_path_rules(&self) -> bool {
        self.has_enforced_path_rules
    }

    /// Whether any rule compares paths.
    pub(crate) fn has_path_rules(&self) -> bool {
        self.has_path_rules
    }

    /// Whether there is nothing to decide: every request may pass.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules().next().is_none() && self.missing.is_none()
    }

    /// Whether a request may pass: the first set that denies it decides.
    pub(crate) fn evaluate(&self, request: &HttpRequest<'_>) -> Decision {
        let mut sets = self.sets.iter();
        let first = sets.next().map_or(&[][..], |rules| rules);
        let mut decision = evaluate(first, request);
        for rules in sets {
            let other = evaluate(rules, request);
            // Of those that allow it, the first that has a rule for it is named.
            let says_more = decision.reason.policy().is_none() && other.reason.policy().is_some();
            if decision.is_allowed() && (!other.is_allowed() || says_more) {
                (decision.verdict, decision.reason) = (other.verdict, other.reason);
            }
            for name in other.audited {
                if !decision.audited.contains(&name) {
                    decision.audited.push(name);
                }
            }
        }
        if let Some(missing) = &self.missing
            && !matches!(decision.reason, Reason::DeniedBy(_))
        {
            decision.verdict = Verdict::Deny;
            decision.reason = Reason::PolicyMissing(missing.to_string());
        }
        decision
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &HttpRule> {
        self.sets.iter().flat_map(|set| set.iter())
    }

    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}
