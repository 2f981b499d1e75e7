//! From a WaypointPolicy's spec to `ambit.waypoint.v1.Policy`.

use std::collections::BTreeSet;
use std::time::Duration;

use ambit_crds::{
    Action, HeaderMatch, HttpRule, HttpSource, Mode, PathMatch, Retry, RetryCondition, Timeouts,
    WaypointPolicySpec, parse_duration,
};
use ambit_wire::waypoint_policy::WaypointPolicy;
use ambit_wire::{security, waypoint};
use prost::Message as _;
use security::string_match::MatchType;

use super::PolicyError;
use crate::index::authorization::string_match;

/// Name of the rule that stands in for rules that cannot be read.
const CLOSED: &str = "unreadable";
/// Most bytes of a policy as waypoints are sent it. Each of them holds it, and while a later version cannot be accepted the status repeats it.
const MOST_BYTES: usize = 64 << 10;
/// The longest pause between two tries, in multiples of the one before the first retry.
const BACKOFF_GROWTH: u32 = 10;

type Read<T> = Result<T, PolicyError>;

fn invalid<T>(field: impl Into<String>, reason: impl Into<String>) -> Read<T> {
    Err(PolicyError::Invalid {
        field: field.into(),
        reason: reason.into(),
    })
}

/// What `spec` says; and what holds while that is an error and no older version is known.
pub(super) fn content(
    namespace: &str,
    name: &str,
    spec: &WaypointPolicySpec,
) -> (Read<waypoint::Policy>, waypoint::Policy) {
    let rules = authorization(&spec.authorization);
    let mut fallback = waypoint::Policy {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        authorization: rules.clone().unwrap_or_else(|_| vec![closed()]),
        ..waypoint::Policy::default()
    };
    let size = fallback.encoded_len();
    if size > MOST_BYTES || understood(&fallback).is_err() {
        fallback.authorization = vec![closed()];
    }
    let content = || {
        renamed(spec)?;
        let rules = rules?;
        if size > MOST_BYTES {
            let reason = format!(
                "the rules have {size} bytes together, and the limit is {MOST_BYTES}: shorten them, or \
                 split them into several policies"
            );
            return invalid("spec.authorization", reason);
        }
        contradiction(&rules)?;
        let (request, backend_request) = timeouts(spec.timeouts.as_ref())?;
        let retry = spec.retry.as_ref();
        let retry = retry.map(|r| self::retry(r, backend_request)).transpose()?;
        // Without retry there is one try.
        let timeout = match retry {
            Some(_) => request,
            None => backend_request.or(request),
        };
        if rules.is_empty() && timeout.is_none() && retry.is_none() {
            return invalid("spec", "it needs one of authorization, timeouts, retry");
        }
        if spec.target_refs.is_empty() {
            return invalid("spec.targetRefs", "it names no target");
        }
        let policy = waypoint::Policy {
            authorization: rules,
            timeout: timeout.map(wire),
            retry,
            ..fallback.clone()
        };
        understood(&policy)?;
        Ok(policy)
    };
    (content(), fallback)
}

/// What waypoints would not understand they would close; better that it is said here.
fn understood(policy: &waypoint::Policy) -> Read<()> {
    match WaypointPolicy::try_from(policy.clone()) {
        Ok(_) => Ok(()),
        Err(error) => invalid("spec", error.to_string()),
    }
}

/// Denies every caller.
fn closed() -> waypoint::Rule {
    waypoint::Rule {
        name: CLOSED.to_owned(),
        action: security::Action::Deny.into(),
        from: vec![waypoint::Source {
            principals: vec![presence()],
            namespaces: Vec::new(),
        }],
        ..waypoint::Rule::default()
    }
}

fn presence() -> security::StringMatch {
    security::StringMatch {
        match_type: Some(MatchType::Presence(())),
    }
}

fn of(match_type: MatchType) -> security::StringMatch {
    security::StringMatch {
        match_type: Some(match_type),
    }
}

fn authorization(rules: &[HttpRule]) -> Read<Vec<waypoint::Rule>> {
    let mut names = BTreeSet::new();
    let mut read = Vec::new();
    for (n, one) in rules.iter().enumerate() {
        let field = format!("spec.authorization[{n}]");
        if one.name.is_empty() || !names.insert(&one.name) {
            return invalid(field + ".name", "every rule needs a name of its own");
        }
        read.push(rule(&field, one)?);
    }
    Ok(read)
}

fn rule(field: &str, rule: &HttpRule) -> Read<waypoint::Rule> {
    let given = [
        rule.from.len(),
        rule.methods.len(),
        rule.paths.len(),
        rule.hosts.len(),
        rule.headers.len(),
    ];
    if given.iter().all(|n| *n == 0) {
        return invalid(
            field,
            "a rule needs one of from, methods, paths, hosts, headers: for every request, write paths: [{prefix: /}]",
        );
    }
    for (n, method) in rule.methods.iter().enumerate() {
        if method.is_empty()
            || !method
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b"-_".contains(&b))
        {
            return invalid(
                format!("{field}.methods[{n}]"),
                "methods are written in upper case: GET",
            );
        }
    }
    let action = match rule.action {
        Action::Allow => security::Action::Allow,
        Action::Deny => security::Action::Deny,
    };
    Ok(waypoint::Rule {
        name: rule.name.clone(),
        action: action.into(),
        audit: rule.mode == Mode::Audit,
        from: each(&rule.from, &format!("{field}.from"), source)?,
        methods: rule.methods.clone(),
        paths: each(&rule.paths, &format!("{field}.paths"), path)?,
        hosts: each(&rule.hosts, &format!("{field}.hosts"), |f, h| host(f, h))?,
        headers: each(&rule.headers, &format!("{field}.headers"), header)?,
        requires: Vec::new(),
    })
}

fn each<T, U>(all: &[T], field: &str, read: impl Fn(&str, &T) -> Read<U>) -> Read<Vec<U>> {
    all.iter()
        .enumerate()
        .map(|(n, one)| read(&format!("{field}[{n}]"), one))
        .collect()
}

fn source(field: &str, source: &HttpSource) -> Read<waypoint::Source> {
    if source.principals.is_empty() && source.namespaces.is_empty() {
        return invalid(field, "it needs one of principals, namespaces");
    }
    let principals = each(&source.principals, &format!("{field}.principals"), |field, p| {
        let whole = p.split('/').count() == 5 && p.contains("/ns/") && p.contains("/sa/");
        if p.contains("://") || !(p.contains('*') || whole) {
            return invalid(
                field,
                "principals are <trust domain>/ns/<namespace>/sa/<service account>, without a scheme",
            );
        }
        pattern(field, p)
    })?;
    Ok(waypoint::Source {
        principals,
        namespaces: each(&source.namespaces, &format!("{field}.namespaces"), |f, n| {
            pattern(f, n)
        })?,
    })
}

/// Text with one `*` at most, at the beginning or the end.
fn pattern(field: &str, text: &str) -> Read<security::StringMatch> {
    let stars = text.matches('*').count();
    if text.is_empty() || stars > 1 || (stars == 1 && !text.starts_with('*') && !text.ends_with('*')) {
        return invalid(field, "it takes one '*', as the first or the last character");
    }
    Ok(string_match(text))
}

fn path(field: &str, path: &PathMatch) -> Read<security::StringMatch> {
    let normal = |field: String, path: &str| {
        let odd = |c: char| "?#;%\\*".contains(c) || c.is_control();
        let dots = path.split('/').any(|s| matches!(s, "." | ".."));
        if path.starts_with('/') && !path.contains("//") && !path.contains(odd) && !dots {
            return Ok(());
        }
        invalid(
            field,
            "paths begin with '/' and are written in normal form: without //, /./, /../, and none of ? # ; % \\ *",
        )
    };
    match (&path.exact, &path.prefix) {
        (Some(exact), None) => {
            normal(format!("{field}.exact"), exact)?;
            Ok(of(MatchType::Exact(exact.clone())))
        }
        (None, Some(prefix)) => {
            normal(format!("{field}.prefix"), prefix)?;
            // Waypoints compare prefixes by whole segments.
            Ok(of(MatchType::Prefix(prefix.clone())))
        }
        _ => invalid(field, "a path needs exact or prefix, one of them"),
    }
}

fn host(field: &str, host: &str) -> Read<security::StringMatch> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    if name.is_empty() || !name.bytes().all(letters) {
        return invalid(
            field,
            "hosts are names in lower case, without a port; a '*.' at the beginning stands for labels",
        );
    }
    Ok(of(match host.strip_prefix('*') {
        Some(suffix) => MatchType::Suffix(suffix.to_owned()),
        None => MatchType::Exact(host.to_owned()),
    }))
}

fn header(field: &str, header: &HeaderMatch) -> Read<waypoint::HeaderMatch> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if header.name.is_empty() || !header.name.bytes().all(token) {
        return invalid(format!("{field}.name"), "it is not the name of a header");
    }
    let mut values = each(&header.values, &format!("{field}.values"), |f, v| pattern(f, v))?;
    if values.is_empty() {
        values.push(presence());
    }
    Ok(waypoint::HeaderMatch {
        name: header.name.to_ascii_lowercase(),
        values,
    })
}

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn duration(field: &str, text: &str, most: Duration) -> Read<Duration> {
    match parse_duration(text) {
        Ok(d) if d >= MILLISECOND && d <= most => Ok(d),
        Ok(_) if most == MINUTE => invalid(field, "it must be between 1ms and 1m"),
        Ok(_) => invalid(field, "it must be between 1ms and 1h"),
        Err(error) => invalid(field, error.to_string()),
    }
}

fn wire(duration: Duration) -> prost_types::Duration {
    // Both parts fit: no duration here is longer than an hour.
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// Fields by names that they had.
fn renamed(spec: &WaypointPolicySpec) -> Read<()> {
    let retry = spec.retry.as_ref();
    let old = [
        ("spec.timeout", "spec.timeouts.request", spec.timeout.is_some()),
        (
            "spec.retry.statusCodes",
            "spec.retry.codes",
            retry.is_some_and(|r| r.status_codes.is_some()),
        ),
        (
            "spec.retry.perTryTimeout",
            "spec.timeouts.backendRequest",
            retry.is_some_and(|r| r.per_try_timeout.is_some()),
        ),
    ];
    match old.into_iter().find(|(.., given)| *given) {
        Some((field, now, _)) => invalid(field, format!("it is now {now}")),
        None => Ok(()),
    }
}

/// Of a request, and of one try.
fn timeouts(timeouts: Option<&Timeouts>) -> Read<(Option<Duration>, Option<Duration>)> {
    let Some(timeouts) = timeouts else {
        return Ok((None, None));
    };
    let read = |field: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|t| duration(field, t, HOUR)).transpose()
    };
    let request = read("spec.timeouts.request", &timeouts.request)?;
    let backend_request = read("spec.timeouts.backendRequest", &timeouts.backend_request)?;
    if backend_request.zip(request).is_some_and(|(one, all)| one > all) {
        return invalid(
            "spec.timeouts.backendRequest",
            "it must not be longer than spec.timeouts.request",
        );
    }
    Ok((request, backend_request))
}

fn retry(retry: &Retry, per_try: Option<Duration>) -> Read<waypoint::Retry> {
    const FIELD: &str = "spec.retry";
    if retry.codes.is_empty() && retry.conditions.is_empty() {
        return invalid(
            FIELD,
            "it needs codes or conditions: without them no request is retried",
        );
    }
    if !(1..=10).contains(&retry.attempts) {
        return invalid("spec.retry.attempts", "it must be between 1 and 10");
    }
    if let Some(n) = retry.codes.iter().position(|c| !(400..600).contains(c)) {
        return invalid(
            format!("spec.retry.codes[{n}]"),
            "codes from 400 to 599 can be retried",
        );
    }
    let reset = retry.conditions.contains(&RetryCondition::Reset);
    if per_try.is_some() && !reset {
        return invalid(
            "spec.timeouts.backendRequest",
            "with retry it needs Reset among retry.conditions: an attempt that times out counts as a reset",
        );
    }
    let base = duration("spec.retry.backoff", &retry.backoff, MINUTE)?;
    Ok(waypoint::Retry {
        attempts: retry.attempts,
        status_codes: retry.codes.iter().copied().map(u32::from).collect(),
        connect_failure: retry.conditions.contains(&RetryCondition::ConnectFailure),
        reset,
        per_try_timeout: per_try.map(wire),
        backoff_base: Some(wire(base)),
        backoff_max: Some(wire(base * BACKOFF_GROWTH)),
        non_idempotent: retry.non_idempotent,
    })
}

/// Two enforced rules that match the same and do the opposite: one of them never has an effect, and which was meant is unknown.
fn contradiction(rules: &[waypoint::Rule]) -> Read<()> {
    let matches: Vec<_> = rules.iter().map(canonical).collect();
    for (later, rule) in rules.iter().enumerate() {
        for (earlier, other) in rules.iter().enumerate().take(later) {
            let both = !rule.audit && !other.audit && rule.action != other.action;
            if both && matches[later] == matches[earlier] {
                return Err(PolicyError::Contradiction {
                    field: format!("spec.authorization[{later}]"),
                    rule: rule.name.clone(),
                    other: other.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// What a rule matches, whatever the order that it is written in.
fn canonical(rule: &waypoint::Rule) -> waypoint::Rule {
    fn sort<T: std::fmt::Debug>(values: &mut Vec<T>) {
        values.sort_by_cached_key(|v| format!("{v:?}"));
        values.dedup_by_key(|v| format!("{v:?}"));
    }
    let mut rule = waypoint::Rule {
        name: String::new(),
        action: 0,
        ..rule.clone()
    };
    for source in &mut rule.from {
        sort(&mut source.principals);
        sort(&mut source.namespaces);
    }
    for header in &mut rule.headers {
        sort(&mut header.values);
    }
    sort(&mut rule.from);
    sort(&mut rule.methods);
    sort(&mut rule.paths);
    sort(&mut rule.hosts);
    sort(&mut rule.headers);
    rule
}
