//! The decision on a request.

use super::path::decode;
use super::{Attributes, HeaderMatch, HostMatch, HttpRequest, HttpRule, PathMatch, Source};
use crate::decide::{Decision, Reason, Verdict};
use crate::matching::StringMatch;
use crate::set::Action;

/// Decides on a request with all rules that apply to its destination.
pub fn evaluate(rules: &[HttpRule], request: &HttpRequest<'_>) -> Decision {
    // Decoded once for all rules, and only if there is something to decode.
    let path = request
        .attributes
        .filter(|_| rules.iter().any(|rule| !rule.paths.is_empty()))
        .map(|attributes| decode(attributes.path.as_bytes()));
    let path = path.as_deref().unwrap_or_default();

    let mut denied = None;
    let mut allowed = None;
    let mut audit_allowed = false;
    let (mut denies, mut allows, mut audit_allows) = (false, false, false);
    let mut audited = Vec::new();
    for rule in rules {
        let matched = rule.matches(request, path);
        match (rule.audit, rule.action) {
            (true, Action::Deny) if matched => audited.push(rule.name.clone()),
            (true, Action::Deny) => {}
            (true, Action::Allow) => {
                audit_allows = true;
                audit_allowed |= matched;
            }
            (false, Action::Deny) => {
                denies = true;
                if matched && denied.is_none() {
                    denied = Some(rule);
                }
            }
            (false, Action::Allow) => {
                allows = true;
                if matched && allowed.is_none() {
                    allowed = Some(rule);
                }
            }
        }
    }
    let names = |audit| {
        let allows = rules
            .iter()
            .filter(move |rule| rule.action == Action::Allow && rule.audit == audit);
        allows.map(|rule| rule.name.clone()).collect::<Vec<_>>()
    };
    // An allow rule on audit would deny only a request that no other allow rule, enforced or not, allows.
    if audit_allows && !audit_allowed && allowed.is_none() {
        audited.append(&mut names(true));
    }
    let (verdict, reason) = match (denied, allowed) {
        (Some(rule), _) => (Verdict::Deny, Reason::DeniedBy(rule.name.clone())),
        (None, Some(rule)) => (Verdict::Allow, Reason::AllowedBy(rule.name.clone())),
        (None, None) if allows => (Verdict::Deny, Reason::NotAllowedBy(names(false))),
        (None, None) if denies => (Verdict::Allow, Reason::NotDenied),
        (None, None) => (Verdict::Allow, Reason::NoPolicy),
    };
    Decision {
        verdict,
        reason,
        denied_by: denied.map(|rule| rule.name.clone()),
        audited,
    }
}

impl HttpRule {
    fn matches(&self, request: &HttpRequest<'_>, path: &[u8]) -> bool {
        if self.from.is_empty() && !self.needs_http() {
            return false;
        }
        let from = self.from.is_empty() || self.from.iter().any(|source| source.matches(request.principal));
        from && match &request.attributes {
            Some(attributes) => self.matches_http(attributes, path),
            None => !self.needs_http() || self.action == Action::Deny,
        }
    }

    fn matches_http(&self, request: &Attributes<'_>, path: &[u8]) -> bool {
        (self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| self.is_method(method, request.method)))
            && (self.paths.is_empty() || self.paths.iter().any(|one| one.matches(self.action, path)))
            && (self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(request.host)))
            && self
                .headers
                .iter()
                .all(|header| header.matches(self.action, request))
    }

    /// Methods are case-sensitive (RFC 9110 §9.1), but not in many applications. To be safe with both, a rule that
    /// denies matches every spelling, and a rule that allows matches only its own.
    fn is_method(&self, method: &str, of_request: &str) -> bool {
        match self.action {
            Action::Allow => method == of_request,
            Action::Deny => method.eq_ignore_ascii_case(of_request),
        }
    }
}

impl Source {
    fn matches(&self, principal: Option<&str>) -> bool {
        let namespace = || {
            let (_, rest) = principal?.split_once("/ns/")?;
            rest.split_once("/sa/").map(|(namespace, _)| namespace)
        };
        let any = |list: &[StringMatch], value: Option<&str>| {
            list.is_empty() || list.iter().any(|one| one.matches(value))
        };
        !(self.principals.is_empty() && self.namespaces.is_empty())
            && any(&self.principals, principal)
            && (self.namespaces.is_empty() || any(&self.namespaces, namespace()))
    }
}

impl PathMatch {
    fn matches(&self, action: Action, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) if action == Action::Deny && path.len() > 1 => {
                path == exact.as_bytes() || path.strip_suffix(b"/") == Some(exact.as_bytes())
            }
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/').as_bytes();
                prefix.is_empty()
                    || path
                        .strip_prefix(prefix)
                        .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
            }
        }
    }
}

impl HostMatch {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl HeaderMatch {
    /// An application may use any one of repeated fields. So a rule that denies matches if one field does, and a rule
    /// that allows requires all fields to match. The same holds for fields whose name the application may read as this
    /// name.
    fn matches(&self, action: Action, request: &Attributes<'_>) -> bool {
        let any = |matches: &mut dyn FnMut(&[u8]) -> bool| {
            request.headers.any(&self.name, matches) || request.headers.any_alike(&self.name, matches)
        };
        match action {
            Action::Deny => any(&mut |value| self.takes(value)),
            Action::Allow => {
                request.headers.any(&self.name, &mut |_| true) && !any(&mut |value| !self.takes(value))
            }
        }
    }

    fn takes(&self, value: &[u8]) -> bool {
        self.values.is_empty()
            || self.values.iter().any(|one| match one {
                StringMatch::Exact(exact) => value == exact.as_bytes(),
                StringMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
                StringMatch::Suffix(suffix) => value.ends_with(suffix.as_bytes()),
                StringMatch::Presence => true,
            })
    }
}
