//! Routes: which backend a request goes to, and what is changed on the way.

use std::borrow::Cow;
use std::sync::Arc;

use ambit_l7::{
    Action, Backend, Mirror, Plan, Preflight, Redirect, RequestHead, RequestTarget, Rewrite, ValueTooLong,
};
use ambit_policy::http::normalize_path;
use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Method, Response, StatusCode};

use super::answer::Rejection;
use super::connection::{ClientConnection, Target};
use super::response::ResponseBody;
use crate::http::{RawTarget, headers};
use crate::observe::Flag;
use crate::state::{Matched, PortRoutes, RuleSet};

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

/// What routes read of a request.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) authority: Option<&'a Authority>,
}

impl<'a> Head<'a> {
    pub(super) fn of(head: &'a Parts, authority: Option<&'a Authority>) -> Self {
        Self {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            authority,
        }
    }

    fn is_grpc(self) -> bool {
        headers::is_grpc(self.headers)
    }

    /// As tables read it, with this path.
    fn with<'b>(self, path: &'b str) -> RequestHead<'b>
    where
        'a: 'b,
    {
        RequestHead {
            method: self.method,
            authority: self.authority.map_or("", Authority::as_str),
            path,
            query: self.uri.query(),
            headers: self.headers,
        }
    }
}

/// The path as rules compare it.
fn path(uri: &Uri) -> Cow<'_, str> {
    normalize_path(uri.path()).unwrap_or(Cow::Borrowed(uri.path()))
}

/// What a route has for a request.
pub(super) struct Found<'a> {
    /// Of the rule that it matches.
    pub(super) matched: Matched<'a>,
    /// Of a request that a consumer's route takes: the rules for what the service's own routes have for it.
    pub(super) passed_over: Option<&'a RuleSet>,
}

/// What the routes of a port have for a request; `None` if it has none. A preflight is responded to.
pub(super) fn find<'a>(
    client: &ClientConnection,
    target: &'a Target,
    head: Head<'_>,
) -> Result<Option<Found<'a>>, Reply> {
    let Some(routes) = target.routes(client.identity.namespace()) else {
        return Ok(None);
    };
    received(routes)?;
    let path = path(head.uri);
    let request = head.with(&path);
    let table = routes.table(head.is_grpc());
    if let Some((_, Preflight { status, headers })) = table.routes.preflight(&request) {
        return Err(routed(status, headers));
    }
    let matched = table.find(&request).map_err(too_long)?.ok_or_else(|| {
        let reason = "route: no rule matches";
        Rejection::new(StatusCode::NOT_FOUND, Flag::NoRoute, reason)
    })?;
    let passed_over = match &routes.passed_over {
        None => None,
        Some(own) => rules_of(own, head)?,
    };
    Ok(Some(Found { matched, passed_over }))
}

/// The rules for what routes have for a request; `None` if none of their rules matches it.
pub(super) fn rules_of<'a>(routes: &'a PortRoutes, head: Head<'_>) -> Result<Option<&'a RuleSet>, Rejection> {
    received(routes)?;
    let path = path(head.uri);
    let table = routes.table(head.is_grpc());
    let matched = table.find(&head.with(&path)).map_err(too_long)?;
    Ok(matched.map(|matched| &matched.policies.rules))
}

/// The rules for a request that is served already, as they are now; of a request that a consumer's route took also those
/// for what the service's own routes have for it.
pub(super) fn rules_now<'a>(
    client: &ClientConnection,
    target: &'a Target,
    head: Head<'_>,
) -> (&'a RuleSet, Option<&'a RuleSet>) {
    let routes = target.routes(client.identity.namespace());
    let of = |routes: &'a PortRoutes| rules_of(routes, head).ok().flatten();
    let own = routes.and_then(|routes| of(routes));
    let passed_over = routes.and_then(|routes| of(routes.passed_over.as_deref()?));
    (own.unwrap_or_else(|| target.rules()), passed_over)
}

/// Nothing passes while a route is not known.
fn received(routes: &PortRoutes) -> Result<(), Rejection> {
    routes.missing().map_or(Ok(()), |missing| {
        let reason = format!("route: {missing} has not been received");
        Err(Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::NoRoute,
            reason,
        ))
    })
}

fn too_long(error: ValueTooLong) -> Rejection {
    let status = match error {
        ValueTooLong::Path => StatusCode::URI_TOO_LONG,
        ValueTooLong::Value(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    };
    Rejection::new(status, Flag::BadRequest, format!("route: {error}"))
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
        Action::Redirect(to) => return Err(redirect(plan, to, frontend, head, authority.as_ref())?),
        Action::Invalid => return Err(internal("the rule is not valid".to_owned()).into()),
    };
    let chosen = split.pick(rand::random());
    let chosen = chosen.ok_or_else(|| internal("no backend, or not a valid one".to_owned()))?;
    if let Some(to) = &chosen.filters.redirect {
        return Err(redirect(plan, to, frontend, head, authority.as_ref())?);
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
    plan: &Plan,
    to: &Redirect,
    frontend: &Target,
    head: &Parts,
    authority: Option<&Authority>,
) -> Result<Reply, Rejection> {
    let target = RequestTarget {
        scheme: "http",
        authority: authority.map_or("", Authority::as_str),
        port: frontend.port(),
        path: &path(&head.uri),
        written: head.uri.path(),
        query: head.uri.query(),
    };
    let location = to.location(&target).map_err(Rejection::bad_request)?;
    let mut headers = HeaderMap::from_iter([(LOCATION, location)]);
    // As those of backends; CORS comes after.
    plan.filters.response_headers.apply(&mut headers);
    Ok(routed(to.status(), headers))
}

fn rewrite(to: &Rewrite, head: &mut Parts, authority: &mut Option<Authority>) -> Result<(), String> {
    if let Some(edit) = to.path() {
        let edited = edit.apply(&path(&head.uri), head.uri.query());
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(edited).map_err(|error| error.to_string())?);
        head.uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        // What the client wrote would take the place of the new path again.
        head.extensions.remove::<RawTarget>();
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

    /// Whether its author may not be the one of the namespaces that its requests are for: it is a consumer's route, or the backend is another
    /// namespace's.
    pub(super) fn is_consumers(&self, frontend: &Target, backend: &Target) -> bool {
        let author = &self.plan.rule.route.namespace;
        let of_frontend = frontend.config().is_none_or(|config| *author == config.namespace);
        let of_backend = match backend {
            Target::Backend { backend, .. } => *author == backend.namespace,
            Target::Service { .. } | Target::Workload { .. } => true,
        };
        !of_frontend || !of_backend
    }

    /// The rule, as logs and metrics name it.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.plan.label)
    }
}
