//! Matches and their order.

use std::cmp::Reverse;

use crate::matching::{Path, PathPredicate, Predicate, Value};

/// The kind of a path match; the first one takes precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Exact,
    /// A regular expression, or patterns for a gRPC service and its method.
    Pattern,
    /// A prefix that is not the root.
    Prefix,
    /// A pattern for a gRPC service, any of its methods.
    ServicePattern,
    /// A gRPC method of any service.
    Method,
    MethodPattern,
    Root,
}

impl Class {
    pub(super) fn of(path: &Path) -> Self {
        match path {
            Path::Exact(_) => Self::Exact,
            Path::Prefix(prefix) if prefix.is_empty() => Self::Root,
            Path::Prefix(_) => Self::Prefix,
            Path::Other(PathPredicate::Regex(_)) => Self::Pattern,
            Path::Other(PathPredicate::Grpc { service, method }) => match (service, method) {
                (Some(_), Some(_)) => Self::Pattern,
                (Some(_), None) => Self::ServicePattern,
                (None, Some(Value::Exact(_))) => Self::Method,
                (None, _) => Self::MethodPattern,
            },
        }
    }
}

/// Sorts matches: the smallest takes precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    class: Class,
    prefix: Reverse<usize>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// Routes come sorted by age and name; then the order within the route.
    plan: usize,
    index: usize,
}

impl Precedence {
    pub(super) fn of(path: &Path, predicate: &Predicate, plan: usize, index: usize) -> Self {
        let (headers, query) = predicate.counts();
        Self {
            class: Class::of(path),
            prefix: Reverse(match path {
                Path::Prefix(prefix) => prefix.len(),
                _ => 0,
            }),
            method: Reverse(predicate.method.is_some()),
            headers: Reverse(headers),
            query: Reverse(query),
            plan,
            index,
        }
    }
}

/// A match of a rule.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) precedence: Precedence,
    pub(super) path: Path,
    pub(super) predicate: Predicate,
    /// The index of its rule among all rules.
    pub(super) plan: usize,
}
