//! Rules that are never reached.
//!
//! A match hides another one if it takes precedence and matches all that the other matches. More conditions mean
//! precedence, so among matches for the same path that is only so where the conditions are the same, or where a
//! pattern matches the other's exact value.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::matching::{Name, Path, PathPredicate};
use crate::{Plan, RuleId};

use super::class::Match;

/// How many patterns of a group a match is compared with: a bound for the time that a table takes to build.
const PATTERNS: usize = 64;

/// A rule that can never be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The rule.
    pub rule: RuleId,
    /// The rule that hides the first of its matches. If it has several, other rules may hide the others.
    pub by: RuleId,
}

/// What matches must have in common for one to hide the other.
#[derive(PartialEq, Eq, Hash)]
struct Group<'a> {
    path: Option<(bool, &'a str)>,
    method: Option<&'a http::Method>,
    names: Vec<&'a Name>,
}

/// The matches are sorted by precedence.
pub(super) fn find(matches: &[Match], plans: &[Arc<Plan>]) -> Vec<Shadowed> {
    let mut reached = vec![false; plans.len()];
    let mut hidden: Vec<Option<usize>> = vec![None; plans.len()];
    let mut groups: HashMap<Group<'_>, Candidates<'_>> = HashMap::new();
    for found in matches {
        let group = groups.entry(Group::of(found)).or_default();
        match group.hides(found) {
            Some(by) if by != found.plan => hidden[found.plan] = hidden[found.plan].or(Some(by)),
            Some(_) => {}
            None => {
                reached[found.plan] = true;
                group.add(found);
            }
        }
    }
    let id = |plan: usize| plans[plan].rule.clone();
    (0..plans.len())
        .filter(|&plan| !reached[plan])
        .filter_map(|plan| {
            let by = id(hidden[plan]?);
            Some(Shadowed { rule: id(plan), by })
        })
        .collect()
}

impl<'a> Group<'a> {
    fn of(found: &'a Match) -> Self {
        Self {
            path: match &found.path {
                Path::Exact(path) => Some((true, path)),
                Path::Prefix(prefix) => Some((false, prefix)),
                Path::Other(_) => None,
            },
            method: found.predicate.method.as_ref(),
            names: found.predicate.values.iter().map(|(name, _)| name).collect(),
        }
    }
}

/// The matches of a group that are not hidden themselves.
#[derive(Default)]
struct Candidates<'a> {
    /// Those without patterns, by their values.
    exact: HashMap<Vec<&'a str>, usize>,
    /// Those with patterns.
    patterns: Vec<&'a Match>,
}

impl<'a> Candidates<'a> {
    fn add(&mut self, found: &'a Match) {
        match exact_values(found) {
            Some(values) => drop(self.exact.insert(values, found.plan)),
            None => self.patterns.push(found),
        }
    }

    /// The rule that hides this match.
    fn hides(&self, found: &'a Match) -> Option<usize> {
        let equal = exact_values(found).and_then(|values| self.exact.get(&values).copied());
        equal.or_else(|| {
            let covers = |wide: &&&Match| {
                let path = match (&wide.path, &found.path) {
                    (Path::Other(wide), Path::Other(narrow)) => PathPredicate::covers(wide, narrow),
                    _ => true,
                };
                path && wide.predicate.covers(&found.predicate)
            };
            self.patterns
                .iter()
                .take(PATTERNS)
                .find(covers)
                .map(|wide| wide.plan)
        })
    }
}

/// The values of the conditions, if all are exact.
fn exact_values(found: &Match) -> Option<Vec<&str>> {
    if matches!(found.path, Path::Other(_)) {
        return None;
    }
    found
        .predicate
        .values
        .iter()
        .map(|(_, value)| value.as_exact())
        .collect()
}
