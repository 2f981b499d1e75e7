//! WaypointPolicies from the wire, in the form that is enforced.

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
    /// Who may do what.
    pub rules: Vec<HttpRule>,
    /// How long a request may take until the head of its answer has come.
    pub timeout: Option<Duration>,
    /// What is tried again.
    pub retry: Option<Retry>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// Answers that are tried again.
    pub status_codes: Vec<u16>,
    /// Whether a request is tried again to whose endpoint no connection came about.
    pub connect_failure: bool,
    /// Whether a request is tried again whose connection ended before an answer came.
    pub reset: bool,
    /// How long one try may take until the head of its answer has come.
    pub per_try_timeout: Option<Duration>,
    /// The longest pause before the first retry; it doubles with each further one.
    pub backoff_base: Duration,
    /// The longest pause of all.
    pub backoff_max: Duration,
    /// Whether requests that are not idempotent are tried again too.
    pub non_idempotent: bool,
}

/// Why a policy is not understood. None of it is then in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaypointPolicyError {
    /// A value that must be there is not.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A rule's action is of no known number.
    #[error("rule {rule}: action has the unknown value {value}")]
    Action {
        /// The rule's name.
        rule: String,
        /// The number.
        value: i32,
    },
    /// A rule that asks for nothing, or a source that does.
    #[error("rule {0} has nothing that could match")]
    EmptyRule(String),
    /// A match without a kind, or of one that the field does not take.
    #[error("rule {rule}: {field} holds a match of a kind it does not take")]
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
    /// A span of time that is negative, or zero where it must not be.
    #[error("{0} is not a duration that a timer can wait")]
    Duration(&'static str),
    /// A status code that is none.
    #[error("retry.status_codes has {0}, which is not the status of a failure")]
    StatusCode(u32),
    /// It needs a reader of a later version.
    #[error("it requires {0:?}, which this version does not have")]
    Requires(String),
}

impl WaypointPolicyError {
    /// Whether no earlier version of it may stay in force either: it was written for later readers.
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

/// What to enforce in the place of a policy that was not understood, where no earlier version of it can stay in force: an enforced `Deny`
/// matches everything, an enforced `Allow` nothing, and audit rules still decide nothing.
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
    // What the whole of it, or an audit rule, means to a later version is not known here.
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
            // Every path, and connections that are no HTTP; a rule without anything would match nothing.
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
    // Encoding is decoded before paths are compared.
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
        // By whole labels.
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
