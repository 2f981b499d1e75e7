//! The decision, and why.

use std::fmt;

use crate::matching::Connection;
use crate::set::{Action, Policies, Policy, Target, shown};

/// Names that a text spells out; the others are counted: it goes into header fields too.
const NAMED: usize = 5;

/// Whether the connection may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// Why a decision fell as it did. Policies are named `namespace/name`, as people know them ([`PolicyName::shown`]).
///
/// [`PolicyName::shown`]: crate::PolicyName::shown
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No enforced policy applies to the workload.
    NoPolicy,
    /// Deny policies apply, none matched, and there is no allow policy.
    NotDenied,
    /// This allow policy matched.
    AllowedBy(String),
    /// This deny policy matched.
    DeniedBy(String),
    /// These allow policies apply, and none matched.
    NotAllowedBy(Vec<String>),
    /// The workload names this policy, and it has not arrived: closed until it does.
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
    /// The policy that decided; for [`Reason::NotAllowedBy`] the first of those that did not match.
    pub fn policy(&self) -> Option<&str> {
        match self {
            Self::NoPolicy | Self::NotDenied => None,
            Self::AllowedBy(name) | Self::DeniedBy(name) | Self::PolicyMissing(name) => Some(name),
            Self::NotAllowedBy(names) => names.first().map(String::as_str),
        }
    }
}

/// What was decided on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be made.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Audit policies that would have denied it.
    pub audited: Vec<String>,
}

impl Decision {
    /// Whether the connection may be made.
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
                    missing.get_or_insert_with(|| shown(name));
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
                        denied.get_or_insert_with(|| policy.name.shown());
                    }
                }
                (false, Action::Allow, true) => {
                    allowed.get_or_insert_with(|| policy.name.shown());
                }
                (false, Action::Allow, false) => add(&mut not_allowed, policy),
            }
        }
        // An audit allow would deny only what no other allow policy, enforced or not, lets through.
        if !audit_allowed && allowed.is_none() {
            audited.append(&mut audit_allows);
        }
        let (verdict, reason) = match (denied, missing, allowed) {
            (Some(name), _, _) => (Verdict::Deny, Reason::DeniedBy(name)),
            (None, Some(name), _) => (Verdict::Deny, Reason::PolicyMissing(name)),
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
            audited,
        }
    }
}

/// Names a policy once, however many of its name there are.
fn add(names: &mut Vec<String>, policy: &Policy) {
    let name = policy.name.shown();
    if !names.contains(&name) {
        names.push(name);
    }
}
