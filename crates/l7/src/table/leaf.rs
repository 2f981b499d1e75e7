//! The matches for one path, by precedence.

use std::collections::{HashMap, HashSet};

use crate::RequestHead;
use crate::matching::{Name, PathPredicate, Predicate};

/// A leaf with at least this many entries has an index.
const INDEX_FROM: usize = 8;

/// The number of names in an index.
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
    /// Every path that `path` matches begins with this. Not empty: a `memcmp` of no bytes at an invalid address takes
    /// 40 ns on some CPUs.
    prefix: Option<Box<str>>,
    predicate: Predicate,
    plan: usize,
}

impl Entry {
    pub(super) fn new(path: Option<PathPredicate>, predicate: Predicate, plan: usize) -> Self {
        let prefix = path.as_ref().map_or("", PathPredicate::literal_prefix);
        Self {
            prefix: (!prefix.is_empty()).then(|| prefix.into()),
            path,
            predicate,
            plan,
        }
    }

    fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.prefix
            .as_ref()
            .is_none_or(|prefix| head.path.starts_with(&**prefix))
            && self.predicate.matches(head)
            && self.path.as_ref().is_none_or(|path| path.matches(head.path))
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

/// Entries by the exact value of a header, a query parameter or, for patterns, a segment of the path: for leaves with
/// many entries, one for each tenant, say.
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
        let conditions: Vec<Vec<(Name, &[u8])>> = entries.iter().map(exact).collect();
        let mut rest: Vec<usize> = (0..entries.len()).collect();
        let mut names = Vec::new();
        while names.len() < INDEX_NAMES {
            let Some(name) = most_values(&conditions, &rest) else {
                break;
            };
            let mut values = ByValue::new();
            rest.retain(|&at| match conditions[at].iter().find(|(n, _)| *n == name) {
                Some((_, value)) => {
                    values.entry((*value).into()).or_default().push(at);
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
fn exact(entry: &Entry) -> Vec<(Name, &[u8])> {
    let values = entry.predicate.values.iter();
    let values = values.filter_map(|(name, value)| Some((name.clone(), value.as_exact()?.as_bytes())));
    let segments = entry.path.iter().flat_map(PathPredicate::segments);
    values
        .chain(segments.map(|(at, text)| (Name::Segment(at), text.as_bytes())))
        .collect()
}

/// The name for which these entries have the most different values, if more than one.
fn most_values(conditions: &[Vec<(Name, &[u8])>], among: &[usize]) -> Option<Name> {
    let mut values: HashMap<&Name, HashSet<&[u8]>> = HashMap::new();
    for (name, value) in among.iter().flat_map(|&at| &conditions[at]) {
        values.entry(name).or_default().insert(value);
    }
    values
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .max_by(|(a, x), (b, y)| x.len().cmp(&y.len()).then_with(|| b.cmp(a)))
        .map(|(name, _)| name.clone())
}
