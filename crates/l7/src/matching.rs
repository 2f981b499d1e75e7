//! Conditions on the head of a request.

use std::borrow::Cow;
use std::fmt;

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, Method};

use crate::error::{At, FieldResult};
use crate::pattern::{Pattern, Patterns};
use crate::{MatchSpec, NamedMatch, Reason, ValueMatch};

mod path;
mod query;

pub(crate) use path::{Path, PathPredicate, prefix};
pub(crate) use query::QueryName;

/// The head of a request, as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// `Host` or `:authority`. Conditions on the header `host` see it.
    pub authority: &'a str,
    /// The path without the query: its [normal form](ambit_policy::http::normalize_path), or as it came where it has
    /// none.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A condition on a value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Exact(Box<str>),
    Regex { source: Box<str>, pattern: Pattern },
}

impl Value {
    fn compile(spec: &ValueMatch, patterns: &mut Patterns) -> Result<Self, Reason> {
        Ok(match spec {
            ValueMatch::Exact(value) => Self::Exact(value.as_str().into()),
            ValueMatch::Regex(source) => Self::Regex {
                source: source.as_str().into(),
                pattern: patterns.compile(source)?,
            },
        })
    }

    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex { pattern, .. } => pattern.matches(value),
        }
    }

    /// The value, if it is an exact one.
    pub(crate) fn as_exact(&self) -> Option<&str> {
        match self {
            Self::Exact(exact) => Some(exact),
            Self::Regex { .. } => None,
        }
    }

    /// Whether this certainly matches all that the other matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(value)) => self.matches(value.as_bytes()),
            (Self::Regex { source: a, .. }, Self::Regex { source: b, .. }) => a == b,
            (Self::Exact(_), Self::Regex { .. }) => false,
        }
    }
}

/// Where the value of a condition is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Name {
    Header(HeaderKey),
    Query(QueryName),
    /// The segment of the path at this place; only for indexes.
    Segment(usize),
}

impl Name {
    /// The value in this request.
    pub(crate) fn value<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(key) => header_value(head, &key.0),
            Self::Query(name) => name.value(head.query?),
            Self::Segment(at) => {
                let mut segments = head.path.strip_prefix('/')?.split('/');
                segments.nth(*at).map(|segment| Cow::Borrowed(segment.as_bytes()))
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(key) => write!(f, "the header {}", key.0),
            Self::Query(name) => write!(f, "the query parameter {name}"),
            Self::Segment(_) => f.write_str("the path"),
        }
    }
}

/// The name of a header, with an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HeaderKey(HeaderName);

impl PartialOrd for HeaderKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

/// The value of a header. Several fields with one name are one value (RFC 9110 §5.2; of cookies RFC 9113 §8.2.3).
fn header_value<'a>(head: &RequestHead<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    if *name == HOST {
        return Some(Cow::Borrowed(head.authority.as_bytes()));
    }
    let mut fields = head.headers.get_all(name).iter();
    let first = fields.next()?.as_bytes();
    let Some(second) = fields.next() else {
        return Some(Cow::Borrowed(first));
    };
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b"," };
    let mut joined = first.to_vec();
    for field in std::iter::once(second).chain(fields) {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(field.as_bytes());
    }
    Some(Cow::Owned(joined))
}

/// A condition on the method, headers and query: all of a match but an indexed path.
#[derive(Debug, Clone)]
pub(crate) struct Predicate {
    pub(crate) method: Option<Method>,
    /// Sorted by name, each name once.
    pub(crate) values: Box<[(Name, Value)]>,
}

impl Predicate {
    pub(crate) fn compile(spec: &MatchSpec, patterns: &mut Patterns) -> FieldResult<Self> {
        let method = match &spec.method {
            None => None,
            Some(method) => Some(
                Method::from_bytes(method.as_bytes())
                    .map_err(|_| Reason::Method(method.clone()))
                    .at("method")?,
            ),
        };
        let mut values: Vec<(Name, Value)> = Vec::new();
        for (i, NamedMatch { name, value }) in spec.headers.iter().enumerate() {
            let name = header_name(name).at("name").at(format_args!("headers[{i}]"))?;
            let value = Value::compile(value, patterns)
                .at("value")
                .at(format_args!("headers[{i}]"))?;
            insert(&mut values, Name::Header(HeaderKey(name)), value);
        }
        for (i, NamedMatch { name, value }) in spec.query.iter().enumerate() {
            let value = Value::compile(value, patterns)
                .at("value")
                .at(format_args!("queryParams[{i}]"))?;
            insert(&mut values, Name::Query(QueryName::new(name)), value);
        }
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self {
            method,
            values: values.into(),
        })
    }

    pub(crate) fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == head.method)
            && self
                .values
                .iter()
                .all(|(name, value)| name.value(head).is_some_and(|found| value.matches(&found)))
    }

    /// How many headers, and how many query parameters.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let is_header = |(name, _): &&(Name, Value)| matches!(name, Name::Header(_));
        let headers = self.values.iter().filter(is_header).count();
        (headers, self.values.len() - headers)
    }

    /// Whether this certainly matches all that the other matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let value_of = |name: &Name| other.values.iter().find(|(n, _)| n == name);
        self.method
            .as_ref()
            .is_none_or(|method| other.method.as_ref() == Some(method))
            && self
                .values
                .iter()
                .all(|(name, value)| value_of(name).is_some_and(|(_, narrower)| value.covers(narrower)))
    }
}

/// The first of equal names counts.
fn insert(values: &mut Vec<(Name, Value)>, name: Name, value: Value) {
    if values.iter().all(|(known, _)| *known != name) {
        values.push((name, value));
    }
}

pub(crate) fn header_name(name: &str) -> Result<HeaderName, Reason> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| Reason::HeaderName(name.to_owned()))
}

#[cfg(test)]
mod tests;
