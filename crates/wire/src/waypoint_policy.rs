//! Converts WaypointPolicies from the wire to the form that a waypoint enforces.

use std::sync::Arc;
use std::time::Duration;

use ambit_policy::http::{HeaderMatch, HostMatch, HttpRule, PathMatch, Source, normalize_path};
use ambit_policy::{Action, StringMatch};

use crate::authorization::string_match;
use crate::{features, security, waypoint};

/// A WaypointPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaypointPolicy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Authorization rules.
    pub rules: Vec<HttpRule>,
    /// The timeout of a request, until the head of its response.
    pub timeout: Option<Duration>,
    /// Retries.
    pub retry: Option<Retry>,
}

/// Which requests are retried, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: u32,
    /// Status codes of responses that are retried.
    pub status_codes: Vec<u16>,
    /// Whether to retry when no connection to the endpoint was established.
    pub connect_failure: bool,
    /// Whether to retry when the connection ended before a response.
    pub reset: bool,
    /// The timeout of one attempt, until the head of its response.
    pub per_try_timeout: Option<Duration>,
    /// The least pause before any retry.
    pub backoff_min: Duration,
    /// The longest pause before the first retry; it doubles with each further retry.
    pub backoff_base: Duration,
    /// The longest pause before any retry.
    pub backoff_max: Duration,
    /// Whether requests that are not idempotent are retried, too.
    pub non_idempotent: bool,
}

/// Why a policy was rejected. No part of it is then in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaypointPolicyError {
    /// A required value is missing.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The action of a rule has an unknown value.
    #[error("rule {rule}: action has the unknown value {value}")]
    Action {
        /// The rule's name.
        rule: String,
        /// The value.
        value: i32,
    },
    /// A rule or a source without any condition.
    #[error("rule {0} has nothing that could match")]
    EmptyRule(String),
    /// A match without a kind, or of a kind that the field does not support.
    #[error("rule {rule}: {field} has a match of a kind that it does not support")]
    Match {
        /// The rule's name.
        rule: String,
        /// The field.
        field: &'static str,
    },
    /// A path that no request can have.
    #[error("rule {rule}: path {path:?} is not in normal form, so nothing would match it")]
    Path {
        /// The rule's name.
        rule: String,
        /// The path.
        path: String,
    },
    /// A duration that is negative, or zero where it must not be.
    #[error("{0} is not a duration that a timer can wait")]
    Duration(&'static str),
    /// An invalid status code.
    #[error("retry.status_codes has {0}, which is not the status of a failure")]
    StatusCode(u32),
    /// It requires a feature of a later version.
    #[error("it requires {0:?}, which this version does not have")]
    Requires(String),
}

impl WaypointPolicyError {
    /// Whether the last applied version may not stay in force either, because this one requires a later version of the
    /// program.
    pub fn is_of_a_later_version(&self) -> bool {
        matches!(self, Self::Requires(_))
    }
}

impl TryFrom<waypoint::Policy> for WaypointPolicy {
    type Error = WaypointPolicyError;

    fn try_from(from: waypoint::Policy) -> Result<Self, WaypointPolicyError> {
        if from.name.is_empty() {
            return Err(WaypointPolicyError::Empty("name"));
        }
        let of_rules = from.authorization.iter().map(|rule| &rule.requires);
        let requires = std::iter::once(&from.requires).chain(of_rules);
        if let Some(feature) = requires.into_iter().find_map(|r| features::missing(r)) {
            return Err(WaypointPolicyError::Requires(feature.to_owned()));
        }
        let name = name(&from);
        Ok(Self {
            rules: from
                .authorization
                .into_iter()
                .map(|one| rule(&name, one))
                .collect::<Result<_, _>>()?,
            timeout: from.timeout.map(|t| positive("timeout", t)).transpose()?,
            retry: from.retry.map(retry).transpose()?,
            name: name.into(),
        })
    }
}

/// The fallback for a rejected policy without a last applied version: an enforced `Deny` rule matches every request, an
/// enforced `Allow` rule none, and audit rules still decide nothing.
pub fn closed(from: &waypoint::Policy) -> WaypointPolicy {
    let policy = name(from);
    let everything = |name: String| HttpRule {
        name,
        action: Action::Deny,
        audit: false,
        from: Vec::new(),
        methods: Vec::new(),
        paths: vec![PathMatch::Prefix("/".to_owned())],
        hosts: Vec::new(),
        headers: Vec::new(),
    };
    // The meaning of the policy, or of an audit rule, in a later version is unknown here.
    let later = features::missing(&from.requires).is_some()
        || from
            .authorization
            .iter()
            .any(|one| features::missing(&one.requires).is_some());
    let later = later.then(|| everything(format!("{policy}/requires")));
    let enforced = from.authorization.iter().filter(|one| !one.audit);
    let rules = enforced.map(|one| {
        let deny = !matches!(
            security::Action::try_from(one.action),
            Ok(security::Action::Allow)
        );
        HttpRule {
            name: format!("{policy}/{}", one.name),
            action: if deny { Action::Deny } else { Action::Allow },
            audit: false,
            from: Vec::new(),
            methods: Vec::new(),
            // Matches every path and non-HTTP connections. A rule without any condition would match nothing.
            paths: match deny {
                true => vec![PathMatch::Prefix("/".to_owned())],
                false => Vec::new(),
            },
            hosts: Vec::new(),
            headers: Vec::new(),
        }
    });
    WaypointPolicy {
        rules: rules.chain(later).collect(),
        name: policy.into(),
        timeout: None,
        retry: None,
    }
}

fn name(from: &waypoint::Policy) -> String {
    format!("{}/{}", from.namespace, from.name)
}

fn rule(policy: &str, from: waypoint::Rule) -> Result<HttpRule, WaypointPolicyError> {
    let name = format!("{policy}/{}", from.name);
    if from.name.is_empty() {
        return Err(WaypointPolicyError::Empty("authorization.name"));
    }
    let action = match security::Action::try_from(from.action) {
        Ok(security::Action::Allow) => Action::Allow,
        Ok(security::Action::Deny) => Action::Deny,
        Err(_) => {
            return Err(WaypointPolicyError::Action {
                rule: name,
                value: from.action,
            });
        }
    };
    let rule = HttpRule {
        action,
        audit: from.audit,
        from: from
            .from
            .into_iter()
            .map(|one| source(&name, one))
            .collect::<Result<_, _>>()?,
        methods: from.methods,
        paths: from
            .paths
            .into_iter()
            .map(|one| path(&name, one))
            .collect::<Result<_, _>>()?,
        hosts: from
            .hosts
            .into_iter()
            .map(|one| host(&name, one))
            .collect::<Result<_, _>>()?,
        headers: from
            .headers
            .into_iter()
            .map(|one| header(&name, one))
            .collect::<Result<_, _>>()?,
        name: name.clone(),
    };
    if rule.from.is_empty() && !rule.needs_http() {
        return Err(WaypointPolicyError::EmptyRule(name));
    }
    Ok(rule)
}

fn source(rule: &str, from: waypoint::Source) -> Result<Source, WaypointPolicyError> {
    if from.principals.is_empty() && from.namespaces.is_empty() {
        return Err(WaypointPolicyError::EmptyRule(rule.to_owned()));
    }
    Ok(Source {
        principals: strings(rule, "principals", from.principals)?,
        namespaces: strings(rule, "namespaces", from.namespaces)?,
    })
}

fn path(rule: &str, from: security::StringMatch) -> Result<PathMatch, WaypointPolicyError> {
    let (path, make): (_, fn(String) -> PathMatch) = match string_match(from) {
        Some(StringMatch::Exact(path)) => (path, PathMatch::Exact),
        Some(StringMatch::Prefix(path)) => (path, PathMatch::Prefix),
        _ => return Err(wrong_kind(rule, "paths")),
    };
    // Paths are decoded before they are compared.
    let normal =
        !path.contains('%') && path.starts_with('/') && normalize_path(&path).is_ok_and(|n| n == path);
    if !normal {
        return Err(WaypointPolicyError::Path {
            rule: rule.to_owned(),
            path,
        });
    }
    Ok(make(path))
}

fn host(rule: &str, from: security::StringMatch) -> Result<HostMatch, WaypointPolicyError> {
    match string_match(from) {
        Some(StringMatch::Exact(host)) => Ok(HostMatch::Exact(host)),
        // A suffix matches whole labels.
        Some(StringMatch::Suffix(suffix)) if suffix.starts_with('.') => Ok(HostMatch::Suffix(suffix)),
        Some(StringMatch::Suffix(suffix)) => Ok(HostMatch::Suffix(format!(".{suffix}"))),
        _ => Err(wrong_kind(rule, "hosts")),
    }
}

fn header(rule: &str, from: waypoint::HeaderMatch) -> Result<HeaderMatch, WaypointPolicyError> {
    if from.name.is_empty() {
        return Err(WaypointPolicyError::Empty("headers.name"));
    }
    Ok(HeaderMatch {
        name: from.name.to_ascii_lowercase(),
        values: strings(rule, "headers", from.values)?,
    })
}

fn strings(
    rule: &str,
    field: &'static str,
    from: Vec<security::StringMatch>,
) -> Result<Vec<StringMatch>, WaypointPolicyError> {
    from.into_iter()
        .map(|one| string_match(one).ok_or_else(|| wrong_kind(rule, field)))
        .collect()
}

fn wrong_kind(rule: &str, field: &'static str) -> WaypointPolicyError {
    WaypointPolicyError::Match {
        rule: rule.to_owned(),
        field,
    }
}

fn retry(from: waypoint::Retry) -> Result<Retry, WaypointPolicyError> {
    let code = |code: u32| match u16::try_from(code) {
        Ok(code @ 400..=599) => Ok(code),
        _ => Err(WaypointPolicyError::StatusCode(code)),
    };
    let backoff = |field, from: Option<prost_types::Duration>| match from {
        Some(from) => Duration::try_from(from).map_err(|_| WaypointPolicyError::Duration(field)),
        None => Ok(Duration::ZERO),
    };
    let backoff_base = backoff("retry.backoff_base", from.backoff_base)?;
    Ok(Retry {
        attempts: from.attempts,
        status_codes: from
            .status_codes
            .into_iter()
            .map(code)
            .collect::<Result<_, _>>()?,
        connect_failure: from.connect_failure,
        reset: from.reset,
        per_try_timeout: from
            .per_try_timeout
            .map(|t| positive("retry.per_try_timeout", t))
            .transpose()?,
        backoff_min: Duration::ZERO,
        backoff_base,
        backoff_max: backoff("retry.backoff_max", from.backoff_max)?.max(backoff_base),
        non_idempotent: from.non_idempotent,
    })
}

fn positive(field: &'static str, from: prost_types::Duration) -> Result<Duration, WaypointPolicyError> {
    match Duration::try_from(from) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(WaypointPolicyError::Duration(field)),
    }
}

#[cfg(test)]
mod tests;
