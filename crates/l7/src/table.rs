//! The route table of one frontend: from the head of a request to its rule.
//!
//! Precedence is the API's, across all rules of all routes. What the API leaves to implementations:
//! - **`RegularExpression`** comes after `Exact` and before `PathPrefix`, as in Envoy Gateway, Contour and NGINX: a
//!   prefix, `/` above all, is what people write to catch the rest, and behind it no pattern would ever be reached
//!   (which is Istio's bug 60695). Patterns do not compare by length, which says nothing about them: method, headers,
//!   query, age and order decide, which their author can see.
//! - **gRPC** matches are ordered by service, then method, then headers. Of conditions on the same parts an exact one
//!   comes before a pattern: service and method (exact, then patterns), service alone (exact, then pattern), method
//!   alone (exact, then pattern), everything.
//! - A slash at the end of a prefix is ignored, also in its length.

mod class;
mod compile;
mod leaf;
mod prefixes;
mod shadow;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use http::Method;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;

use crate::matching::Name;
use crate::{PATTERN_VALUE_LIMIT, Plan, Preflight, RequestHead, SpecError, ValueTooLong};

use leaf::Leaf;
use prefixes::Prefixes;

pub use shadow::Shadowed;

/// All rules of the routes of one frontend. Immutable.
#[derive(Debug, Default)]
pub struct RouteTable {
    plans: Vec<Arc<Plan>>,
    exact: HashMap<Box<str>, Leaf>,
    /// Before prefixes.
    patterns: Leaf,
    prefixes: Prefixes,
    /// Between prefixes and the root.
    late_patterns: Leaf,
    /// Every path.
    root: Leaf,
    /// Whether paths are matched by patterns.
    path_patterns: bool,
    /// The names whose values are matched by patterns.
    value_patterns: Box<[Name]>,
    errors: Vec<SpecError>,
    shadowed: Vec<Shadowed>,
}

impl RouteTable {
    /// The plan of the rule that takes precedence among those that match. Without any the response is 404.
    ///
    /// Allocates nothing, but where a request repeats a header or encodes a query parameter that conditions name.
    ///
    /// # Errors
    /// When a value is too long for the patterns of the table: the response is 414 or 431.
    pub fn lookup(&self, head: &RequestHead<'_>) -> Result<Option<&Arc<Plan>>, ValueTooLong> {
        self.check_lengths(head)?;
        Ok(self.find(head))
    }

    fn find(&self, head: &RequestHead<'_>) -> Option<&Arc<Plan>> {
        let found = self.leaves(head.path, |leaf| match leaf.first(head) {
            Some(plan) => ControlFlow::Break(plan),
            None => ControlFlow::Continue(()),
        });
        self.plans.get(found?)
    }

    fn check_lengths(&self, head: &RequestHead<'_>) -> Result<(), ValueTooLong> {
        if self.path_patterns && head.path.len() > PATTERN_VALUE_LIMIT {
            return Err(ValueTooLong::Path);
        }
        let too_long = |name: &&Name| {
            name.value(head)
                .is_some_and(|value| value.len() > PATTERN_VALUE_LIMIT)
        };
        match self.value_patterns.iter().find(too_long) {
            Some(name) => Err(ValueTooLong::Value(name.to_string())),
            None => Ok(()),
        }
    }

    /// The response to a CORS preflight, and the plan whose filter made it. A preflight announces a request with
    /// another method: if the rule that matches the preflight has no CORS filter, the rule for the announced method
    /// counts.
    pub fn preflight(&self, head: &RequestHead<'_>) -> Option<(&Arc<Plan>, Preflight)> {
        if *head.method != Method::OPTIONS {
            return None;
        }
        let respond = |method: &Method| {
            let plan = self.lookup(&RequestHead { method, ..*head }).ok()??;
            let response = plan.cors.as_ref()?.preflight(head.method, head.headers)?;
            Some((plan, response))
        };
        respond(head.method).or_else(|| {
            let requested = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
            respond(&Method::from_bytes(requested.as_bytes()).ok()?)
        })
    }

    /// The plans of all rules that match, by precedence: the first one is that of [`RouteTable::lookup`], the others
    /// show what it hides. For explanations: the length of values is not checked.
    pub fn lookup_all(&self, head: &RequestHead<'_>) -> Vec<&Arc<Plan>> {
        let mut found: Vec<usize> = Vec::new();
        self.leaves(head.path, |leaf| {
            for plan in leaf.all(head) {
                if !found.contains(&plan) {
                    found.push(plan);
                }
            }
            ControlFlow::<()>::Continue(())
        });
        found
            .into_iter()
            .filter_map(|plan| self.plans.get(plan))
            .collect()
    }

    /// The plans of all rules, route by route.
    pub fn plans(&self) -> &[Arc<Plan>] {
        &self.plans
    }

    /// The errors in the specs.
    pub fn errors(&self) -> &[SpecError] {
        &self.errors
    }

    /// The rules that can never be reached, because others match all that they match and take precedence. Only what
    /// can be decided from equal paths is found; a pattern may hide more.
    pub fn shadowed(&self) -> &[Shadowed] {
        &self.shadowed
    }

    /// Visits the leaves for a path by precedence.
    fn leaves<'a, B>(&'a self, path: &str, mut visit: impl FnMut(&'a Leaf) -> ControlFlow<B>) -> Option<B> {
        let mut walk = || {
            if let Some(leaf) = self.exact.get(path) {
                visit(leaf)?;
            }
            visit(&self.patterns)?;
            self.prefixes.leaves(path, &mut visit)?;
            visit(&self.late_patterns)?;
            visit(&self.root)
        };
        match walk() {
            ControlFlow::Break(found) => Some(found),
            ControlFlow::Continue(()) => None,
        }
    }
}

#[cfg(test)]
mod tests;
