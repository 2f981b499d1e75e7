//! From specs to the table.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::{At, FieldResult};
use crate::matching::{Path, Predicate};
use crate::pattern::Patterns;
use crate::{MatchSpec, Plan, RouteSpec, RouteTable, RuleId, RuleSpec};

use super::class::{Class, Match, Precedence};
use super::leaf::{Entry, Leaf};
use super::prefixes::Prefixes;
use super::shadow;

impl RouteTable {
    /// Builds the table of these routes: the oldest first, and of one age by namespace and name.
    ///
    /// An error closes the rule that has it, and the others are in force: what its valid matches match gets status 500
    /// ([`Action::Invalid`](crate::Action::Invalid)), and its invalid matches match nothing.
    /// See [`RouteTable::errors`].
    pub fn compile<'a>(routes: impl IntoIterator<Item = &'a RouteSpec>) -> Self {
        let mut patterns = Patterns::default();
        let mut table = Self::default();
        let mut matches = Vec::new();
        for route in routes {
            let name = Arc::new(route.name.clone());
            for (index, rule) in route.rules.iter().enumerate() {
                let id = RuleId {
                    route: Arc::clone(&name),
                    index,
                    name: rule.name.clone(),
                };
                table.add(id, rule, &mut patterns, &mut matches);
            }
        }
        matches.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        table.shadowed = shadow::find(&matches, &table.plans);
        table.index(matches);
        table
    }

    fn add(&mut self, id: RuleId, rule: &RuleSpec, patterns: &mut Patterns, matches: &mut Vec<Match>) {
        let plan = self.plans.len();
        let mut valid = true;
        let everything = [MatchSpec::default()];
        let specs = if rule.matches.is_empty() {
            &everything
        } else {
            &*rule.matches
        };
        for (index, spec) in specs.iter().enumerate() {
            match compile_match(spec, patterns).at(format_args!("matches[{index}]")) {
                Ok((path, predicate)) => matches.push(Match {
                    precedence: Precedence::of(&path, &predicate, plan, index),
                    path,
                    predicate,
                    plan,
                }),
                Err(error) => {
                    valid = false;
                    self.errors.push(error.of(id.clone()));
                }
            }
        }
        let compiled = match Plan::compile(id.clone(), plan, rule) {
            Ok(compiled) if valid => compiled,
            Ok(_) => Plan::invalid(id, plan),
            Err(error) => {
                self.errors.push(error.of(id.clone()));
                Plan::invalid(id, plan)
            }
        };
        self.plans.push(Arc::new(compiled));
    }

    /// The matches are sorted.
    fn index(&mut self, matches: Vec<Match>) {
        let mut value_patterns = BTreeSet::new();
        for found in &matches {
            self.path_patterns |= matches!(&found.path, Path::Other(path) if path.has_pattern());
            let values = found.predicate.values.iter();
            value_patterns.extend(
                values
                    .filter(|(_, value)| value.as_exact().is_none())
                    .map(|(name, _)| name.clone()),
            );
        }
        self.value_patterns = value_patterns.into_iter().collect();
        let mut exact: HashMap<String, Vec<Entry>> = HashMap::new();
        let mut prefixes: HashMap<String, Vec<Entry>> = HashMap::new();
        let (mut patterns, mut late, mut root) = (Vec::new(), Vec::new(), Vec::new());
        for Match {
            path,
            predicate,
            plan,
            ..
        } in matches
        {
            let class = Class::of(&path);
            match path {
                Path::Exact(path) => exact
                    .entry(path)
                    .or_default()
                    .push(Entry::new(None, predicate, plan)),
                Path::Prefix(prefix) if prefix.is_empty() => root.push(Entry::new(None, predicate, plan)),
                Path::Prefix(prefix) => prefixes
                    .entry(prefix)
                    .or_default()
                    .push(Entry::new(None, predicate, plan)),
                Path::Other(path) => {
                    let list = if class == Class::Pattern {
                        &mut patterns
                    } else {
                        &mut late
                    };
                    list.push(Entry::new(Some(path), predicate, plan));
                }
            }
        }
        self.exact = exact
            .into_iter()
            .map(|(path, entries)| (path.into(), Leaf::new(entries)))
            .collect();
        self.prefixes = Prefixes::new(prefixes);
        self.patterns = Leaf::new(patterns);
        self.late_patterns = Leaf::new(late);
        self.root = Leaf::new(root);
    }
}

fn compile_match(spec: &MatchSpec, patterns: &mut Patterns) -> FieldResult<(Path, Predicate)> {
    let path = Path::compile(&spec.path, patterns)?;
    Ok((path, Predicate::compile(spec, patterns)?))
}
