//! Conditions on paths.

use std::borrow::Cow;

use ambit_policy::http::normalize_path;

use crate::error::{At, FieldResult};
use crate::pattern::{Patterns, literal_prefix};
use crate::{PathMatch, Reason, ValueMatch};

use super::Value;

/// A condition on the path.
#[derive(Debug, Clone)]
pub(crate) enum Path {
    Exact(String),
    /// Without a slash at its end; the root is empty.
    Prefix(String),
    Other(PathPredicate),
}

/// A condition on the path for which there is no index.
#[derive(Debug, Clone)]
pub(crate) enum PathPredicate {
    Regex(Value),
    Grpc {
        service: Option<Value>,
        method: Option<Value>,
    },
}

impl Path {
    pub(crate) fn compile(spec: &PathMatch, patterns: &mut Patterns) -> FieldResult<Self> {
        Ok(match spec {
            PathMatch::Exact(path) => Self::Exact(normal(path).at("path.value")?),
            PathMatch::Prefix(path) => Self::Prefix(prefix(path).at("path.value")?),
            PathMatch::Regex(source) => {
                let value = Value::compile(&ValueMatch::Regex(source.clone()), patterns).at("path.value")?;
                Self::Other(PathPredicate::Regex(value))
            }
            PathMatch::Grpc { service, method } => {
                let exact = |value: &Option<ValueMatch>| match value {
                    Some(ValueMatch::Exact(text)) => Some(text.clone()),
                    _ => None,
                };
                for (name, part) in [("service", service), ("method", method)] {
                    check_grpc(part.as_ref()).at(name).at("method")?;
                }
                match (exact(service), exact(method)) {
                    (Some(service), Some(method)) => Self::Exact(format!("/{service}/{method}")),
                    (Some(service), None) if method.is_none() => Self::Prefix(format!("/{service}")),
                    _ if service.is_none() && method.is_none() => {
                        return Err(Reason::GrpcMethod("service or method must be given")).at("method");
                    }
                    _ => {
                        let mut compile = |name: &str, part: &Option<ValueMatch>| match part {
                            None => Ok(None),
                            Some(part) => Value::compile(part, patterns).at(name).at("method").map(Some),
                        };
                        Self::Other(PathPredicate::Grpc {
                            service: compile("service", service)?,
                            method: compile("method", method)?,
                        })
                    }
                }
            }
        })
    }
}

impl PathPredicate {
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Regex(value) => value.matches(path.as_bytes()),
            Self::Grpc { service, method } => {
                let Some((s, m)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
                    return false;
                };
                let holds = |condition: &Option<Value>, part: &str| {
                    condition
                        .as_ref()
                        .is_none_or(|value| value.matches(part.as_bytes()))
                };
                !s.is_empty() && !m.is_empty() && !m.contains('/') && holds(service, s) && holds(method, m)
            }
        }
    }

    /// Whether it has a pattern.
    pub(crate) fn has_pattern(&self) -> bool {
        let is_pattern = |part: &Option<Value>| part.as_ref().is_some_and(|value| value.as_exact().is_none());
        match self {
            Self::Regex(_) => true,
            Self::Grpc { service, method } => is_pattern(service) || is_pattern(method),
        }
    }

    /// Every path that matches begins with this.
    pub(crate) fn literal_prefix(&self) -> &str {
        match self {
            Self::Regex(Value::Regex { source, .. }) => literal_prefix(source),
            _ => "",
        }
    }

    /// Segments that every matching path has, with their places.
    pub(crate) fn segments(&self) -> Vec<(usize, &str)> {
        match self {
            Self::Regex(_) => {
                let mut segments: Vec<_> = self.literal_prefix().split('/').skip(1).enumerate().collect();
                // The last segment may be longer in a path.
                segments.pop();
                segments
            }
            Self::Grpc { service, method } => {
                let parts = [service, method].into_iter().enumerate();
                parts
                    .filter_map(|(place, part)| Some((place, part.as_ref()?.as_exact()?)))
                    .collect()
            }
        }
    }

    /// Whether this certainly matches all that the other matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let part = |wide: &Option<Value>, narrow: &Option<Value>| match (wide, narrow) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => wide.covers(narrow),
            (Some(_), None) => false,
        };
        match (self, other) {
            (Self::Regex(wide), Self::Regex(narrow)) => wide.covers(narrow),
            (
                Self::Grpc {
                    service: s1,
                    method: m1,
                },
                Self::Grpc {
                    service: s2,
                    method: m2,
                },
            ) => part(s1, s2) && part(m1, m2),
            _ => false,
        }
    }
}

fn check_grpc(part: Option<&ValueMatch>) -> Result<(), Reason> {
    let Some(ValueMatch::Exact(text)) = part else {
        return Ok(());
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    match text.as_str() {
        "" => Err(Reason::GrpcMethod("empty; leave it out to match any")),
        text if text.chars().all(valid) => Ok(()),
        _ => Err(Reason::GrpcMethod("it has letters, digits, underscores and dots")),
    }
}

/// The prefix without the slash at its end.
pub(crate) fn prefix(path: &str) -> Result<String, Reason> {
    let mut path = normal(path)?;
    if path.ends_with('/') {
        path.pop();
    }
    Ok(path)
}

/// The path of a condition in the normal form of requests' paths. The conditions are those of `HTTPPathMatch`.
fn normal(path: &str) -> Result<String, Reason> {
    let refuse = |reason| Err(Reason::Path(reason));
    if !path.starts_with('/') {
        return refuse("it must begin with a slash");
    }
    if path.contains("//") {
        return refuse("it must not have slashes in a row");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return refuse("it must not have a segment that is . or ..");
    }
    let lower = path.to_ascii_lowercase();
    if lower.contains("%2f") {
        return refuse("it must not have an encoded slash");
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    if !path.bytes().all(valid) {
        return refuse("it has a character that must be percent-encoded in a path");
    }
    let mut encoded = lower.split('%').skip(1);
    if !encoded.all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit())) {
        return refuse("a % must be followed by two hexadecimal digits");
    }
    // What has no normal form (as `;`) arrives as it was sent.
    Ok(normalize_path(path).map_or_else(|_| path.to_owned(), Cow::into_owned))
}
