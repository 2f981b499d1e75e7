//! What to do with a request: the compiled form of one rule.

use std::fmt;
use std::sync::Arc;

use crate::error::{At, FieldResult};
use crate::matching::prefix;
use crate::{
    Cors, FilterSpec, HeaderEdit, MatchSpec, PathMatch, Reason, Redirect, Rewrite, RouteName, RuleSpec, Split,
};

mod mirror;
mod retry;

pub use mirror::Mirror;
pub use retry::{MAX_RETRIES, Retry, Timeouts};

/// Names a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleId {
    /// Its route.
    pub route: Arc<RouteName>,
    /// Its place in the route.
    pub index: usize,
    /// Its name.
    pub name: Option<String>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules[{}]", self.route, self.index)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// What to do with requests that match a rule. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The rule.
    pub rule: RuleId,
    /// Its place among [`RouteTable::plans`](crate::RouteTable::plans), for what callers keep beside plans.
    pub place: usize,
    /// Its name in logs and metrics: the text of `rule`.
    pub label: Arc<str>,
    /// Cross-origin resource sharing.
    pub cors: Option<Cors>,
    /// What is done to requests and responses, whatever the backend. A redirect among it is [`Action::Redirect`].
    pub filters: Filters,
    /// Where the response comes from.
    pub action: Action,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: Option<Retry>,
}

/// Where the response to a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// From one of these backends.
    Forward(Split),
    /// The response is this redirect.
    Redirect(Redirect),
    /// The rule cannot be honoured: status 500.
    Invalid,
}

/// What a rule or one of its backends does to requests and responses, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Changes of the request's headers.
    pub request_headers: HeaderEdit,
    /// The change of its host and path. A backend's replaces the rule's; both work on the path that the rule matched.
    pub rewrite: Option<Rewrite>,
    /// Of a backend: the response is this redirect.
    pub redirect: Option<Redirect>,
    /// Where copies of the request go.
    pub mirrors: Box<[Mirror]>,
    /// Changes of the response's headers.
    pub response_headers: HeaderEdit,
}

impl Filters {
    pub(crate) fn compile(spec: &FilterSpec, prefix: Option<&str>) -> FieldResult<Self> {
        if spec.rewrite.is_some() && spec.redirect.is_some() {
            return Err(Reason::Excludes("urlRewrite")).at("requestRedirect");
        }
        let mut mirrors = Vec::with_capacity(spec.mirrors.len());
        for (i, mirror) in spec.mirrors.iter().enumerate() {
            mirrors.push(Mirror::compile(mirror).at(format_args!("requestMirror[{i}]"))?);
        }
        Ok(Self {
            request_headers: HeaderEdit::compile(&spec.request_headers).at("requestHeaderModifier")?,
            rewrite: match &spec.rewrite {
                None => None,
                Some(rewrite) => Some(Rewrite::compile(rewrite, prefix).at("urlRewrite")?),
            },
            redirect: match &spec.redirect {
                None => None,
                Some(redirect) => Some(Redirect::compile(redirect, prefix).at("requestRedirect")?),
            },
            mirrors: mirrors.into(),
            response_headers: HeaderEdit::compile(&spec.response_headers).at("responseHeaderModifier")?,
        })
    }
}

impl Plan {
    pub(crate) fn compile(rule: RuleId, place: usize, spec: &RuleSpec) -> FieldResult<Self> {
        let prefix = only_prefix(&spec.matches);
        let mut filters = Filters::compile(&spec.filters, prefix.as_deref()).at("filters")?;
        let action = match filters.redirect.take() {
            Some(_) if !spec.backends.is_empty() => {
                return Err(Reason::Excludes("backendRefs"))
                    .at("requestRedirect")
                    .at("filters");
            }
            Some(redirect) => Action::Redirect(redirect),
            None => Action::Forward(Split::compile(&spec.backends, prefix.as_deref())?),
        };
        Ok(Self {
            label: rule.to_string().into(),
            rule,
            place,
            cors: match &spec.cors {
                None => None,
                Some(cors) => Some(Cors::compile(cors).at("cors").at("filters")?),
            },
            filters,
            action,
            timeouts: Timeouts::compile(&spec.timeouts).at("timeouts")?,
            retry: match &spec.retry {
                None => None,
                Some(retry) => Some(Retry::compile(retry).at("retry")?),
            },
        })
    }

    /// The plan of a rule that cannot be honoured.
    pub(crate) fn invalid(rule: RuleId, place: usize) -> Self {
        Self {
            label: rule.to_string().into(),
            rule,
            place,
            cors: None,
            filters: Filters::default(),
            action: Action::Invalid,
            timeouts: Timeouts::default(),
            retry: None,
        }
    }
}

/// The prefix of a rule whose one match is a prefix. No matches at all are the prefix `/`.
fn only_prefix(matches: &[MatchSpec]) -> Option<String> {
    match matches {
        [] => Some(String::new()),
        [only] => match &only.path {
            PathMatch::Prefix(path) => prefix(path).ok(),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
