//! Routes: which backend a request goes to, and what is changed on the way.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ambit_l7::{
    Action, Backend, Mirror, Plan, Preflight, Redirect, RequestHead, RequestTarget, Rewrite, ValueTooLong,
};
use ambit_policy::http::normalize_path;
use ambit_wire::waypoint_policy::Retry;
use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Response, StatusCode};

use super::answer::Rejection;
use super::connection::{ClientConnection, Target};
use super::response::ResponseBody;
use crate::http::headers;
use crate::observe::Flag;
use crate::state::Chosen;

/// The longest pause before a retry, as a multiple of the least.
const LONGEST_BACKOFF: u32 = 10;

/// A response of the waypoint itself.
pub(super) enum Reply {
    /// The request is refused.
    Rejected(Rejection),
    /// It is responded to by a route: a redirect, or a preflight's response.
    Routed(Box<Response<ResponseBody>>),
}

impl From<Rejection> for Reply {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// What a request is forwarded to by a route.
pub(super) struct Forward {
    plan: Arc<Plan>,
    /// The backend, as the plan has it.
    backend: Arc<Backend>,
    /// The same, as it is configured now.
    pub(super) target: Target,
}

/// The path as rules compare it.
fn path(head: &Parts) -> Cow<'_, str> {
    let path = head.uri.path();
    normalize_path(path).unwrap_or(Cow::Borrowed(path))
}

/// The plan for a request; `None` if its port has no routes. A preflight is responded to.
pub(super) fn plan(
    client: &ClientConnection,
    target: &Target,
    head: &Parts,
    authority: Option<&Authority>,
) -> Result<Option<Arc<Plan>>, Reply> {
    let Some(routes) = target.routes(client.identity.namespace()) else {
        return Ok(None);
    };
    if let Some(missing) = &routes.missing {
        let reason = format!("route: {missing} has not been received");
        return Err(Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoRoute, reason).into());
    }
    let head = RequestHead {
        method: &head.method,
        authority: authority.map_or("", Authority::as_str),
        path: &path(head),
        query: head.uri.query(),
        headers: &head.headers,
    };
    let table = routes.table(headers::is_grpc(head.headers));
    if let Some((_, Preflight { status, headers })) = table.preflight(&head) {
        return Err(routed(status, headers));
    }
    let found = table.lookup(&head).map_err(|error| {
        let status = match error {
            ValueTooLong::Path => StatusCode::URI_TOO_LONG,
            ValueTooLong::Value(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        Rejection::new(status, Flag::BadRequest, format!("route: {error}"))
    })?;
    let plan = found.ok_or_else(|| {
        let reason = "route: no rule matches";
        Rejection::new(StatusCode::NOT_FOUND, Flag::NoRoute, reason)
    })?;
    Ok(Some(Arc::clone(plan)))
}

fn routed(status: StatusCode, headers: HeaderMap) -> Reply {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Reply::Routed(Box::new(response))
}

/// Chooses a backend, and changes the request for it.
pub(super) fn forward(
    client: &ClientConnection,
    plan: &Arc<Plan>,
    frontend: &Target,
    head: &mut Parts,
    authority: &mut Option<Authority>,
) -> Result<Forward, Reply> {
    let internal = |reason: String| {
        let reason = format!("route: {}: {reason}", plan.rule);
        Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, Flag::NoRoute, reason)
    };
    let split = match &plan.action {
        Action::Forward(split) => split,
        Action::Redirect(to) => return Err(redirect(to, frontend, head, authority.as_ref())?),
        Action::Invalid => return Err(internal("the rule is not valid".to_owned()).into()),
    };
    let chosen = split.pick(rand::random());
    let chosen = chosen.ok_or_else(|| internal("no backend, or not a valid one".to_owned()))?;
    if let Some(to) = &chosen.filters.redirect {
        return Err(redirect(to, frontend, head, authority.as_ref())?);
    }
    let target = client.backend(&chosen.id, chosen.port);
    let target = target.ok_or_else(|| internal(format!("backend {} has not been received", chosen.id)))?;
    plan.filters.request_headers.apply(&mut head.headers);
    chosen.filters.request_headers.apply(&mut head.headers);
    if let Some(to) = chosen.filters.rewrite.as_ref().or(plan.filters.rewrite.as_ref()) {
        rewrite(to, head, authority).map_err(internal)?;
    }
    Ok(Forward {
        plan: Arc::clone(plan),
        backend: Arc::clone(chosen),
        target,
    })
}

fn redirect(
    to: &Redirect,
    frontend: &Target,
    head: &Parts,
    authority: Option<&Authority>,
) -> Result<Reply, Rejection> {
    let target = RequestTarget {
        scheme: "http",
        authority: authority.map_or("", Authority::as_str),
        port: frontend.port(),
        path: &path(head),
        query: head.uri.query(),
    };
    let location = to.location(&target).map_err(Rejection::bad_request)?;
    Ok(routed(to.status(), HeaderMap::from_iter([(LOCATION, location)])))
}

fn rewrite(to: &Rewrite, head: &mut Parts, authority: &mut Option<Authority>) -> Result<(), String> {
    if let Some(edit) = to.path() {
        let edited = edit.apply(&path(head), head.uri.query());
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(edited).map_err(|error| error.to_string())?);
        head.uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    }
    if let Some(host) = to.host() {
        *authority = Some(Authority::try_from(host.as_bytes()).map_err(|error| error.to_string())?);
        if head.headers.contains_key(HOST) {
            head.headers.insert(HOST, HeaderValue::clone(host));
        }
    }
    Ok(())
}

impl Forward {
    /// Where copies of the request go.
    pub(super) fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        let (rule, backend) = (&self.plan.filters, &self.backend.filters);
        rule.mirrors.iter().chain(&backend.mirrors)
    }

    /// What is done to the response: first for the backend, then for the rule.
    pub(super) fn edit_response(&self, headers: &mut HeaderMap) {
        self.backend.filters.response_headers.apply(headers);
        self.plan.filters.response_headers.apply(headers);
    }

    /// The rule's retries and timeout of one try, as a policy has them; what the rule does not say is the policy's. `None`: it
    /// says nothing.
    pub(super) fn retry(&self, policy: Option<&Chosen<Retry>>) -> Option<Chosen<Retry>> {
        let (retry, per_try) = (self.plan.retry.as_ref(), self.plan.timeouts.backend_request);
        if retry.is_none() && per_try.is_none() {
            return None;
        }
        let per_try_timeout = per_try.or(policy.and_then(|policy| policy.value.per_try_timeout));
        if let (None, Some(policy)) = (retry, policy) {
            let mut policy = policy.clone();
            policy.value.per_try_timeout = per_try_timeout;
            return Some(policy);
        }
        let backoff = retry.map_or(Duration::ZERO, ambit_l7::Retry::backoff);
        Some(Chosen {
            policy: self.name(),
            value: Retry {
                attempts: retry.map_or(0, ambit_l7::Retry::attempts),
                status_codes: retry.map_or_else(Vec::new, |retry| retry.codes().to_vec()),
                connect_failure: true,
                reset: true,
                per_try_timeout,
                backoff_min: backoff,
                backoff_base: backoff.saturating_mul(2),
                backoff_max: backoff.saturating_mul(LONGEST_BACKOFF),
                non_idempotent: false,
            },
        })
    }

    /// The rule's timeout, as a policy has it.
    pub(super) fn timeout(&self) -> Option<Chosen<Duration>> {
        let value = self.plan.timeouts.request?;
        Some(Chosen {
            policy: self.name(),
            value,
        })
    }

    /// The rule, as logs and metrics name it.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.plan.label)
    }
}
