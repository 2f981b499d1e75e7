//! One request: what is decided on it, and how it is passed on.

use std::borrow::Cow;
use std::sync::Arc;

use ambit_l7::CorsResponse;
use ambit_policy::http::{Attributes, HttpRequest, PathRefusal, normalize_host, readings};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, InvalidUri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;

use super::answer::Rejection;
use super::asked::Asked;
use super::connection::{ClientConnection, Target};
use super::deadline::Deadline;
use super::mirror;
use super::response::{ResponseBody, UpstreamBody};
use super::retry::Budget;
use super::route::{self, Head, Reply};
use super::tries::{Passage, Source};
use super::websocket;
use crate::admission::REQUEST;
use crate::http::headers::{self, Fields, HostError, REASON};
use crate::http::limits::{MAX_HEAD, MAX_REPLAY};
use crate::http::{ClientBody, Interim, Spool, Upload};
use crate::observe::{Flag, Refusal, RequestRecord};
use crate::received::Received;
use crate::state::RuleSet;

/// Serves a request of `client`.
pub(super) async fn handle(
    client: Arc<ClientConnection>,
    request: Request<Received>,
    interim: Option<Interim>,
) -> Response<ResponseBody> {
    let pending = client.pending();
    let grpc = client.http2 && request.method() == Method::POST && headers::is_grpc(request.headers());
    let mut response = match client.target() {
        Ok(target) => {
            let mut record = client.record(&target, &request);
            let bytes = REQUEST + 2 * headers::size(request.headers());
            match client.requests.take().zip(client.account.admit(bytes)) {
                Some((place, held)) => {
                    record.takes(place, held, client.retries.request());
                    serve(&client, &target, request, record, grpc, interim.as_ref()).await
                }
                None => refuse(&Rejection::overloaded(), record, grpc),
            }
        }
        Err(rejection) => match client.record_unserved(&request) {
            Some(record) => refuse(&rejection, record, grpc),
            None => {
                client.proxy.observer.refused(Refusal::Authority);
                rejection.answer(grpc)
            }
        },
    };
    // Whoever sends nonsense begins anew.
    let nonsense = matches!(response.body(), ResponseBody::Text(_))
        && matches!(
            response.status(),
            StatusCode::BAD_REQUEST
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
    *response.version_mut() = if client.http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS
        && (client.should_close() || (nonsense && !client.http2))
    {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    pending.done();
    response
}

/// Answers a request whose target is none.
pub(super) fn refuse_target(
    client: &Arc<ClientConnection>,
    request: &Request<Received>,
    error: &InvalidUri,
) -> Response<ResponseBody> {
    let rejection = Rejection::bad_request(format!("target: {error}"));
    let mut response = match client.record_unserved(request) {
        Some(record) => refuse(&rejection, record, false),
        None => rejection.answer(false),
    };
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn serve(
    client: &Arc<ClientConnection>,
    target: &Target,
    request: Request<Received>,
    mut record: RequestRecord,
    grpc: bool,
    interim: Option<&Interim>,
) -> Response<ResponseBody> {
    let (head, incoming) = request.into_parts();
    let upload = (!incoming.is_end_stream()).then(Arc::<Upload>::default);
    let body = upload.as_ref().map(|upload| {
        let patience = (!grpc).then_some(client.proxy.timeouts.body);
        ClientBody::new(incoming, Arc::clone(upload), record.request_body(), patience)
    });
    let mut cors = None;
    let passing = pass(
        client,
        target,
        head,
        body,
        upload.clone(),
        interim,
        &mut record,
        &mut cors,
    );
    let passed = passing.await;
    match passed {
        Ok((mut parts, body, switched)) => {
            if let Some(upload) = &upload {
                upload.answered();
            }
            record.answered(parts.status, &parts.headers);
            record.holds(headers::size(&parts.headers));
            let body = body.recording(record);
            if let Some(asked) = switched {
                headers::remove_hop_by_hop(&mut parts.headers, true);
                return Box::pin(websocket::begin(client, parts, body, asked)).await;
            }
            headers::remove_hop_by_hop(&mut parts.headers, false);
            Response::from_parts(parts, ResponseBody::Upstream(Box::new(body)))
        }
        Err(Reply::Rejected(rejection)) => {
            let mut response = refuse(&rejection, record, grpc);
            if let Some(cors) = &cors {
                cors.apply(response.headers_mut());
            }
            response
        }
        Err(Reply::Routed(mut response)) => {
            if let Some(cors) = &cors {
                cors.apply(response.headers_mut());
            }
            record.answered(response.status(), response.headers());
            record.end();
            *response
        }
    }
}

/// Answers for the waypoint itself.
fn refuse(rejection: &Rejection, mut record: RequestRecord, grpc: bool) -> Response<ResponseBody> {
    record.failed(rejection.flag, rejection.reason.as_str());
    let response = rejection.answer(grpc);
    record.answered(response.status(), response.headers());
    record.end();
    response
}

/// With the request, where it is answered by a switch to the protocol that it asked for.
type Answer = (http::response::Parts, UpstreamBody, Option<Box<Asked>>);

#[allow(
    clippy::too_many_arguments,
    reason = "what a request comes with, and what is kept of it"
)]
async fn pass<'a>(
    client: &Arc<ClientConnection>,
    target: &'a Target,
    mut head: Parts,
    body: Option<ClientBody>,
    upload: Option<Arc<Upload>>,
    interim: Option<&Interim>,
    record: &mut RequestRecord,
    cors: &mut Option<CorsResponse<'a>>,
) -> Result<Answer, Reply> {
    if headers::size(&head.headers) > MAX_HEAD {
        return Err(Rejection::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Flag::BadRequest,
            format!("the request's fields have more than {} KiB", MAX_HEAD >> 10),
        )
        .into());
    }
    if head.method == Method::CONNECT {
        let reason = "CONNECT is not supported";
        return Err(Rejection::new(StatusCode::METHOD_NOT_ALLOWED, Flag::BadRequest, reason).into());
    }
    // "GET server:80 HTTP/1.1" names no resource.
    if head.uri.scheme().is_none() && head.uri.authority().is_some() && head.version != Version::HTTP_2 {
        return Err(Rejection::bad_request("the target is not a path").into());
    }
    let http2 = client.http2 || target.is_http2();
    let mut authority =
        headers::authority(&head.uri, &head.headers, head.version).map_err(Rejection::bad_request)?;
    if authority.is_none() && (http2 || !head.headers.contains_key(HOST)) {
        // Before the rules are asked: they see the name that the endpoint is sent.
        authority = target.authority();
    }
    let received = head.version;
    let websocket = headers::is_websocket(&head.method, head.version, &head.headers);
    // They see the fields that the endpoint is sent, too.
    headers::remove_hop_by_hop(&mut head.headers, websocket);
    head.headers.remove(headers::CLIENT_CERTIFICATE);
    if websocket && body.is_some() {
        return Err(Rejection::bad_request("a request for an upgrade with a body").into());
    }
    // Before rules: the preflight of a browser does not say who asks.
    let found = route::find(client, target, Head::of(&head, authority.as_ref()))?;
    let plan = found.as_ref().map(|found| found.matched.plan);
    let policies = found.as_ref().map(|found| found.matched.policies);
    let policies = policies.or_else(|| target.policies());
    if let Some(plan) = plan {
        record.governed_by(&plan.label);
    }
    let own = policies.map_or_else(|| target.rules(), |policies| &policies.rules);
    let passed_over = found.as_ref().and_then(|found| found.passed_over);
    for rules in [own].into_iter().chain(passed_over) {
        authorize(client, target, rules, &head, authority.as_ref(), record)?;
    }
    let mut asked = websocket.then(|| Box::new(Asked::new(&head, authority.as_ref())));
    let of_plan = plan.and_then(|plan| plan.cors.as_ref());
    *cors = of_plan.map(|cors| cors.actual(&head.headers));
    let forward = match plan {
        Some(plan) => Some(route::forward(client, plan, target, &mut head, &mut authority)?),
        None => None,
    };
    let (frontend, target) = (target, forward.as_ref().map_or(target, |f| &f.target));
    let http2 = client.http2 || target.is_http2();
    if let Some(forward) = &forward {
        record.routed(forward.name(), target.destination());
        // A route is no way around the backend's own rules: about the request as the backend is sent it.
        authority = authority.or_else(|| target.authority().filter(|_| http2));
        authorize(client, target, target.rules(), &head, authority.as_ref(), record)?;
        let consumers = forward.is_consumers(frontend, target);
        // A consumer's route is no way around the rules of what the backend's own routes have for it either.
        if let Some(own) = consumers.then(|| target.own_routes()).flatten()
            && let Some(rules) = route::rules_of(&own, Head::of(&head, authority.as_ref()))?
        {
            authorize(client, target, rules, &head, authority.as_ref(), record)?;
        }
        if let (Some(asked), Target::Backend { backend, port, .. }) = (&mut asked, target) {
            let changed = Asked::new(&head, authority.as_ref());
            asked.routed(&backend.key, *port, changed, consumers);
        }
    }
    headers::add_forwarded(&mut head.headers, received, client.peer.ip());
    let mirrored = !websocket && forward.as_ref().is_some_and(|f| f.mirrors().next().is_some());
    let copied = mirrored.then(|| Box::new(head.clone()));
    prepare(http2, &mut head, body.is_some(), authority.as_ref(), websocket)?;

    let retry = policies.and_then(|policies| policies.retry.as_ref());
    let idempotent = headers::is_idempotent(&head.method) && !websocket;
    let budget = Budget::new(retry.map(|retry| &retry.value), idempotent);
    let source = match body {
        None => Source::Empty,
        // HTTP/2 endpoints may say after a part of the body that they have not looked at the request.
        Some(body) if budget.may_repeat() || mirrored || head.version == Version::HTTP_2 => {
            Source::Kept(Spool::new(body, MAX_REPLAY, client.account.nothing()))
        }
        Some(body) => Source::Once(Some(Box::new(body))),
    };
    let mut passage = Passage {
        client,
        target,
        head,
        source,
        upload,
        interim,
        record,
        retry,
        budget,
        retrying: None,
    };
    let timeout = policies.and_then(|policies| policies.timeout.as_ref());
    let deadline = timeout.map(Deadline::of_request);
    let passed = match &deadline {
        None => passage.run().await,
        Some(deadline) => deadline.limit(passage.run()).await.unwrap_or_else(|| {
            passage.record.governed_by(&deadline.policy);
            Err(Rejection::late(deadline))
        }),
    };
    if let Some((forward, head)) = forward.as_ref().zip(copied)
        && let Some(body) = passage.source.copy()
    {
        mirror::send(
            client,
            forward,
            frontend,
            &head,
            authority.as_ref(),
            body.as_ref(),
        );
    }
    let (answer, from) = passed?;
    let (mut parts, incoming) = answer.into_parts();
    if !headers::has_known_coding(&mut parts.headers) {
        let reason = "upstream: a response whose Transfer-Encoding is not chunked alone";
        return Err(Rejection::new(StatusCode::BAD_GATEWAY, Flag::UpstreamReset, reason).into());
    }
    // The waypoint's own word.
    parts.headers.remove(REASON);
    if let Some(forward) = &forward {
        forward.edit_response(&mut parts.headers);
    }
    if let Some(cors) = cors {
        cors.apply(&mut parts.headers);
    }
    let body = UpstreamBody::new(incoming, from.link, &client.proxy.upstream, from.endpoint)
        .until(Deadline::first(deadline, from.deadline));
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let switched = asked.filter(|_| switches && websocket::is_answer(&parts));
    if switches && switched.is_none() {
        let reason = "upstream: it switched to a protocol without a request for it";
        return Err(Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamReset, reason).into());
    }
    Ok((parts, body, switched))
}

/// Applies the rules for requests. What is sent on stays as it came; so all that an application may read in the path must be allowed.
fn authorize(
    client: &ClientConnection,
    target: &Target,
    rules: &RuleSet,
    head: &Parts,
    authority: Option<&Authority>,
    record: &mut RequestRecord,
) -> Result<(), Rejection> {
    if rules.is_empty() {
        return Ok(());
    }
    let path = head.uri.path();
    let as_it_is = || vec![Cow::Borrowed(path)];
    let paths = match rules.has_path_rules() {
        true => match readings(path) {
            Err(refusal) if rules.has_enforced_path_rules() => return Err(Rejection::bad_request(refusal)),
            paths => paths.unwrap_or_else(|_| as_it_is()),
        },
        false => as_it_is(),
    };
    let host = normal_host(authority)?;
    let evaluate = |path: &str| {
        rules.evaluate(&HttpRequest {
            principal: Some(client.identity.principal()),
            attributes: Some(Attributes {
                method: head.method.as_str(),
                path,
                host: host.as_deref().unwrap_or_default(),
                headers: &Fields {
                    headers: &head.headers,
                    authority,
                },
            }),
        })
    };
    let (normal, others) = paths
        .split_first()
        .map_or(("/", &[][..]), |(first, rest)| (&**first, rest));
    let decision = evaluate(normal);
    record.decided(&decision);
    if !decision.is_allowed() {
        // For the log only.
        if let Some(endpoint) = target.choose(&client.proxy, &[]) {
            record.refused_for(&endpoint);
        }
        let reason = decision.reason.to_string();
        return Err(Rejection::new(StatusCode::FORBIDDEN, Flag::Denied, reason));
    }
    if others.iter().all(|path| evaluate(path).is_allowed()) {
        return Ok(());
    }
    Err(Rejection::bad_request(PathRefusal::ReadDifferently))
}

/// The name as rules compare it.
fn normal_host(authority: Option<&Authority>) -> Result<Option<Cow<'_, str>>, Rejection> {
    authority
        .map(|authority| normalize_host(authority.as_str()).ok_or(HostError::Malformed))
        .transpose()
        .map_err(Rejection::bad_request)
}

/// Makes the head, of which hop-by-hop fields are gone, into what the endpoint is sent.
pub(super) fn prepare(
    http2: bool,
    head: &mut Parts,
    has_body: bool,
    authority: Option<&Authority>,
    websocket: bool,
) -> Result<(), Rejection> {
    if http2 {
        if websocket {
            let reason = "WebSocket over HTTP/2 is not supported";
            return Err(Rejection::new(
                StatusCode::NOT_IMPLEMENTED,
                Flag::BadRequest,
                reason,
            ));
        }
        let authority = authority.ok_or_else(|| Rejection::bad_request(HostError::Missing))?;
        head.uri = headers::to_http2(&head.uri, authority, &mut head.headers)
            .map_err(|error| Rejection::bad_request(format!("target: {error}")))?;
        head.version = Version::HTTP_2;
    } else {
        head.uri = headers::to_http1(&head.uri, authority, &mut head.headers);
        head.version = Version::HTTP_11;
        // It is for this connection only (RFC 9110 §10.1.4).
        if head.headers.contains_key(TE) {
            head.headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
        // hyper would leave out the body of a GET whose length it does not know.
        if has_body && !head.headers.contains_key(CONTENT_LENGTH) {
            head.headers
                .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    Ok(())
}
