//! The matches for one path, by precedence.

use std::collections::HashMap;

use crate::RequestHead;
use crate::matching::{Name, PathPredicate, Predicate, Value};

/// From how many entries on an index is worth it.
const INDEX_FROM: usize = 8;

/// How many names of headers and query parameters an index has.
const INDEX_NAMES: usize = 4;

/// The matches for one path, by precedence.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    entries: Box<[Entry]>,
    index: Option<Index>,
}

/// One match.
#[derive(Debug)]
pub(super) struct Entry {
    path: Option<PathPredicate>,
    predicate: Predicate,
    plan: usize,
}

impl Entry {
    pub(super) fn new(path: Option<PathPredicate>, predicate: Predicate, plan: usize) -> Self {
        Self {
            path,
            predicate,
            plan,
        }
    }

    fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.predicate.matches(head) && self.path.as_ref().is_none_or(|path| path.matches(head.path))
    }
}

impl Leaf {
    /// The entries are sorted.
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let index = (entries.len() >= INDEX_FROM)
            .then(|| Index::new(&entries))
            .flatten();
        Self {
            entries: entries.into(),
            index,
        }
    }

    /// The plan of the first entry that matches.
    pub(super) fn first(&self, head: &RequestHead<'_>) -> Option<usize> {
        let Some(index) = &self.index else {
            let entry = self.entries.iter().find(|entry| entry.matches(head))?;
            return Some(entry.plan);
        };
        index.first(head, |at| {
            let entry = &self.entries[at];
            entry.matches(head).then_some(entry.plan)
        })
    }

    /// The plans of all entries that match.
    pub(super) fn all(&self, head: &RequestHead<'_>) -> impl Iterator<Item = usize> {
        self.entries
            .iter()
            .filter(|entry| entry.matches(head))
            .map(|entry| entry.plan)
    }
}

/// Entries by the exact value of a header or query parameter, for leaves with many entries: one for each tenant, say.
#[derive(Debug)]
struct Index {
    names: Vec<(Name, ByValue)>,
    /// The entries that have no indexed condition.
    rest: Vec<usize>,
}

/// The places of entries.
type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

impl Index {
    fn new(entries: &[Entry]) -> Option<Self> {
        let mut rest: Vec<usize> = (0..entries.len()).collect();
        let mut names = Vec::new();
        while names.len() < INDEX_NAMES {
            let Some(name) = most_frequent(entries, &rest) else {
                break;
            };
            let mut values = ByValue::new();
            rest.retain(|&at| match exact(&entries[at]).find(|(n, _)| **n == name) {
                Some((_, value)) => {
                    values.entry(value.into()).or_default().push(at);
                    false
                }
                None => true,
            });
            names.push((name, values));
        }
        (!names.is_empty()).then_some(Self { names, rest })
    }

    /// Merges the lists for this request by precedence, until `test` has a result.
    fn first(&self, head: &RequestHead<'_>, test: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        let mut lists: [&[usize]; INDEX_NAMES + 1] = [&[]; INDEX_NAMES + 1];
        lists[INDEX_NAMES] = &self.rest;
        for (list, (name, values)) in lists.iter_mut().zip(&self.names) {
            if let Some(found) = name.value(head).and_then(|value| values.get(&*value)) {
                *list = found;
            }
        }
        loop {
            let list = lists
                .iter_mut()
                .filter(|list| !list.is_empty())
                .min_by_key(|list| list[0])?;
            let (&at, remaining) = list.split_first()?;
            *list = remaining;
            if let Some(found) = test(at) {
                return Some(found);
            }
        }
    }
}

/// The conditions of an entry on exact values.
fn exact(entry: &Entry) -> impl Iterator<Item = (&Name, &[u8])> {
    entry
        .predicate
        .values
        .iter()
        .filter_map(|(name, value)| match value {
            Value::Exact(value) => Some((name, &**value)),
            Value::Regex { .. } => None,
        })
}

/// The name that most of these entries have a condition on, if more than one has.
fn most_frequent(entries: &[Entry], among: &[usize]) -> Option<Name> {
    let mut counts: HashMap<&Name, usize> = HashMap::new();
    for &at in among {
        for (name, _) in exact(&entries[at]) {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .max_by(|(a, x), (b, y)| x.cmp(y).then_with(|| b.cmp(a)))
        .map(|(name, _)| name.clone())
}
