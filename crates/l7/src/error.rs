//! What is wrong with a spec, and where.

use std::fmt;

use crate::{PATTERN_VALUE_LIMIT, RuleId};

/// A field of a rule that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {field}: {reason}")]
pub struct SpecError {
    /// The rule.
    pub rule: RuleId,
    /// The path of the field in the rule, as `matches[0].headers[1].name`.
    pub field: String,
    /// What is wrong.
    pub reason: Reason,
}

/// A request has a value that is too long for the patterns of a table: it is refused, so that a long value is neither a
/// way around a rule nor a way to keep a proxy busy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueTooLong {
    /// The path: status 414.
    #[error(
        "the path is longer than {PATTERN_VALUE_LIMIT} bytes, and a route matches it by a regular expression"
    )]
    Path,
    /// A header or query parameter, with its name: status 431.
    #[error("{0} is longer than {PATTERN_VALUE_LIMIT} bytes, and a route matches it by a regular expression")]
    Value(String),
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The pattern does not parse.
    #[error("invalid regular expression: {0}")]
    Pattern(String),
    /// The compiled pattern would be too large.
    #[error(
        "the regular expression is too large: compiled it takes more than {0} bytes; shorten its repetitions"
    )]
    PatternSize(usize),
    /// A path for matching or rewriting.
    #[error("invalid path: {0}")]
    Path(&'static str),
    /// A gRPC match without both parts, or with an empty one.
    #[error("invalid gRPC method match: {0}")]
    GrpcMethod(&'static str),
    /// Not an HTTP method.
    #[error("{0:?} is not an HTTP method")]
    Method(String),
    /// Not a header name.
    #[error("{0:?} is not a header name")]
    HeaderName(String),
    /// Not a header value.
    #[error("a header value has visible ASCII characters, spaces and tabs")]
    HeaderValue,
    /// A header that belongs to the connection or the framing, or is the request's target.
    #[error(
        "the header {0:?} cannot be changed: it belongs to the connection, the message framing or the target"
    )]
    Protected(String),
    /// More than one of set, add and remove.
    #[error("the header {0:?} has more than one action; set, add or remove it once")]
    ManyActions(String),
    /// Not the name of a host.
    #[error("{0:?} is not a host name")]
    Hostname(String),
    /// Not `http` or `https`.
    #[error("{0:?} is not a scheme to redirect to; use http or https")]
    Scheme(String),
    /// Not a status of a redirect.
    #[error("{0} is not a status for a redirect; use 301, 302, 303, 307 or 308")]
    RedirectStatus(u16),
    /// Not a status that can be retried.
    #[error("{0} cannot be retried; use statuses from 400 to 599")]
    RetryStatus(u16),
    /// Port 0.
    #[error("0 is not a port")]
    Port,
    /// Not a part of a whole.
    #[error("{0}/{1} is not between 0 and 1")]
    Fraction(u32, u32),
    /// Over the API's bound.
    #[error("the weight {0} is above 1000000")]
    Weight(u32),
    /// A timeout for attempts that is longer than the one for the request.
    #[error("longer than the timeout of the whole request")]
    TimeoutOrder,
    /// Prefix replacement where the rule's matches do not have one prefix.
    #[error("replacing the prefix needs a rule with exactly one match, of type PathPrefix")]
    NoPrefix,
    /// Filters or fields that exclude each other.
    #[error("cannot be combined with {0}")]
    Excludes(&'static str),
    /// Not an origin.
    #[error("{0:?} is not an origin: use scheme://host[:port] with http or https, or *")]
    Origin(String),
    /// `*` beside other entries.
    #[error("* cannot stand beside other entries")]
    WildcardNotAlone,
    /// Zero seconds.
    #[error("at least 1 second")]
    MaxAge,
}

/// An error on its way to the rule: the path of the field grows from its end.
#[derive(Debug)]
pub(crate) struct FieldError {
    field: String,
    reason: Reason,
}

impl FieldError {
    pub(crate) fn of(self, rule: RuleId) -> SpecError {
        SpecError {
            rule,
            field: self.field,
            reason: self.reason,
        }
    }
}

pub(crate) type FieldResult<T> = Result<T, FieldError>;

/// Puts a field's name before an error.
pub(crate) trait At<T> {
    fn at(self, field: impl fmt::Display) -> FieldResult<T>;
}

impl<T> At<T> for Result<T, Reason> {
    fn at(self, field: impl fmt::Display) -> FieldResult<T> {
        self.map_err(|reason| FieldError {
            field: field.to_string(),
            reason,
        })
    }
}

impl<T> At<T> for FieldResult<T> {
    fn at(self, field: impl fmt::Display) -> Self {
        self.map_err(|error| FieldError {
            field: format!("{field}.{}", error.field),
            reason: error.reason,
        })
    }
}
