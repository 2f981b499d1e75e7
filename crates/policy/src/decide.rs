//! The decision on a connection, and its reason.

use std::fmt;

use crate::matching::Connection;
use crate::set::{Action, Policies, Policy, Target, shown};

/// Policies that a reason lists by name; further ones are counted. The text is also sent in header fields.
const NAMED: usize = 5;

/// Whether the connection is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is allowed.
    Allow,
    /// The connection is denied.
    Deny,
}

/// The reason for a decision. Policies are named `namespace/name`, as users wrote them ([`PolicyName::shown`]).
///
/// [`PolicyName::shown`]: crate::PolicyName::shown
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No enforced policy applies to the workload.
    NoPolicy,
    /// Deny policies apply, none matched, and no allow policy applies.
    NotDenied,
    /// This allow policy matched.
    AllowedBy(String),
    /// This deny policy matched.
    DeniedBy(String),
    /// These allow policies apply, and none of them matched.
    NotAllowedBy(Vec<String>),
    /// The workload refers to this policy, and the policy has not been received: every connection is denied until then.
    PolicyMissing(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => write!(f, "no policy applies"),
            Self::NotDenied => write!(f, "no deny policy matched"),
            Self::AllowedBy(name) => write!(f, "allowed by {name}"),
            Self::DeniedBy(name) => write!(f, "denied by {name}"),
            Self::NotAllowedBy(names) => {
                let (named, more) = names.split_at(names.len().min(NAMED));
                write!(f, "not allowed by any of {}", named.join(", "))?;
                match more.len() {
                    0 => Ok(()),
                    n => write!(f, " and {n} more"),
                }
            }
            Self::PolicyMissing(name) => write!(f, "policy {name} applies but has not been received"),
        }
    }
}

impl Reason {
    /// The policy that decided; for [`Reason::NotAllowedBy`] the first policy that did not match.
    pub fn policy(&self) -> Option<&str> {
        match self {
            Self::NoPolicy | Self::NotDenied => None,
            Self::AllowedBy(name) | Self::DeniedBy(name) | Self::PolicyMissing(name) => Some(name),
            Self::NotAllowedBy(names) => names.first().map(String::as_str),
        }
    }
}

/// The decision on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the connection is allowed.
    pub verdict: Verdict,
    /// The reason.
    pub reason: Reason,
    /// The policy that denies, or is missing, by its full name: with the variant, if there is one. `None` if no single
    /// policy does.
    pub denied_by: Option<String>,
    /// Audit policies that would have denied it.
    pub audited: Vec<String>,
}

impl Decision {
    /// Whether the connection is allowed.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

impl Policies {
    /// Decides on a connection to a workload.
    pub fn evaluate(&self, connection: &Connection, target: Target) -> Decision {
        let mut missing = None;
        let mut denied = None;
        let mut allowed = None;
        let mut not_allowed = Vec::new();
        let mut audited = Vec::new();
        let mut audit_allows = Vec::new();
        let mut audit_allowed = false;
        let mut any = false;
        for policy in self.applying(target) {
            let policy = match policy {
                Ok(policy) => policy,
                Err(name) => {
                    missing.get_or_insert_with(|| name.to_owned());
                    continue;
                }
            };
            let matched = policy.matches(connection);
            match (policy.audit, policy.action, matched) {
                (true, Action::Deny, true) => add(&mut audited, policy),
                (true, Action::Deny, false) => {}
                (true, Action::Allow, true) => audit_allowed = true,
                (true, Action::Allow, false) => add(&mut audit_allows, policy),
                (false, Action::Deny, matched) => {
                    any = true;
                    if matched {
                        denied.get_or_insert_with(|| policy.name.to_string());
                    }
                }
                (false, Action::Allow, true) => {
                    allowed.get_or_insert_with(|| policy.name.shown());
                }
                (false, Action::Allow, false) => add(&mut not_allowed, policy),
            }
        }
        // An allow policy on audit would deny only a connection that no other allow policy, enforced or not, allows.
        if !audit_allowed && allowed.is_none() {
            audited.append(&mut audit_allows);
        }
        let (verdict, reason) = match (&denied, &missing, allowed) {
            (Some(name), _, _) => (Verdict::Deny, Reason::DeniedBy(shown(name))),
            (None, Some(name), _) => (Verdict::Deny, Reason::PolicyMissing(shown(name))),
            (None, None, Some(name)) => (Verdict::Allow, Reason::AllowedBy(name)),
            (None, None, None) if !not_allowed.is_empty() => {
                (Verdict::Deny, Reason::NotAllowedBy(not_allowed))
            }
            (None, None, None) if any => (Verdict::Allow, Reason::NotDenied),
            (None, None, None) => (Verdict::Allow, Reason::NoPolicy),
        };
        Decision {
            verdict,
            reason,
            denied_by: denied.or(missing),
            audited,
        }
    }
}

/// Adds the name of a policy once, even if several policies have it.
fn add(names: &mut Vec<String>, policy: &Policy) {
    let name = policy.name.shown();
    if !names.contains(&name) {
        names.push(name);
    }
}
