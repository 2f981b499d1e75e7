//! The rules of several policies, as one.

use std::sync::Arc;

use ambit_policy::http::{HttpRequest, HttpRule, evaluate};
use ambit_policy::{Decision, Reason, Verdict};
use ambit_wire::waypoint_policy::WaypointPolicy;

/// All rules that apply to a destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleSet {
    rules: Arc<[HttpRule]>,
    /// A policy that applies and has not been received: closed until it is.
    missing: Option<Arc<str>>,
    has_path_rules: bool,
    has_enforced_path_rules: bool,
}

impl RuleSet {
    /// Of these policies.
    pub(super) fn resolve(names: &[Arc<str>], policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>) -> Self {
        let mut rules = Vec::new();
        let mut missing = None;
        for name in names {
            match policy(name) {
                Some(policy) => rules.extend_from_slice(&policy.rules),
                None => missing = missing.or_else(|| Some(Arc::clone(name))),
            }
        }
        Self {
            has_enforced_path_rules: rules.iter().any(|rule| !rule.audit && !rule.paths.is_empty()),
            has_path_rules: rules.iter().any(|rule| !rule.paths.is_empty()),
            rules: rules.into(),
            missing,
        }
    }

    /// Nothing passes until it is known which policies apply.
    pub(super) fn unknown() -> Self {
        Self {
            missing: Some("the waypoint's settings".into()),
            ..Self::default()
        }
    }

    /// Whether one that is in force compares paths: malformed ones cannot pass then.
    pub(crate) fn has_enforced_path_rules(&self) -> bool {
        self.has_enforced_path_rules
    }

    /// Whether one of them compares paths.
    pub(crate) fn has_path_rules(&self) -> bool {
        self.has_path_rules
    }

    /// Whether nothing is to be decided: every request may pass.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.missing.is_none()
    }

    /// Whether a request may pass.
    pub(crate) fn evaluate(&self, request: &HttpRequest<'_>) -> Decision {
        let mut decision = evaluate(&self.rules, request);
        if let Some(missing) = &self.missing
            && !matches!(decision.reason, Reason::DeniedBy(_))
        {
            decision.verdict = Verdict::Deny;
            decision.reason = Reason::PolicyMissing(missing.to_string());
        }
        decision
    }

    pub(super) fn rules(&self) -> &[HttpRule] {
        &self.rules
    }

    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}
