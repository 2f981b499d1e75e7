//! A request's tries: an endpoint each, until one answers or nothing is left to try.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::answer::Rejection;
use super::connection::{ClientConnection, Target};
use super::deadline::Deadline;
use super::response::{Link, UpstreamBody};
use super::retry::{Again, Budget, Failed};
use super::skew;
use crate::http::{ClientBody, Interim, RequestBody, Spool, Upload, limits};
use crate::observe::{Flag, RETRY_LIMIT, RequestRecord};
use crate::received::Received;
use crate::retries::Retrying;
use crate::state::{Chosen, Endpoint, Retry};
use crate::upstream::{ConnectFailure, Destination, Http1Failure, Http2Failure};

/// The body of a request, and what of it can be sent once more.
pub(super) enum Source {
    Empty,
    /// Sent once; `None` when it has been.
    Once(Option<Box<ClientBody>>),
    Kept(Spool),
}

impl Source {
    fn body(&mut self) -> Option<RequestBody> {
        match self {
            Self::Empty => Some(RequestBody::Empty),
            Self::Once(body) => body.take().map(RequestBody::Once),
            Self::Kept(spool) => spool.again().map(RequestBody::Replay),
        }
    }

    /// Takes a body back of which nothing was sent.
    fn restore(&mut self, body: RequestBody) {
        if let (Self::Once(place), RequestBody::Once(body)) = (self, body) {
            *place = Some(body);
        }
    }

    /// A copy for a mirror: `None` if there is none to be had, `Some(None)` if there is no body.
    pub(super) fn copy(&self) -> Option<Option<Bytes>> {
        match self {
            Self::Empty => Some(None),
            Self::Once(_) => None,
            Self::Kept(spool) => spool.copy().map(Some),
        }
    }

    fn can_be_sent(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(spool) => spool.is_whole(),
        }
    }

    /// Whether it can be sent again. Then the try before takes no more of it; else that goes on.
    fn seal(&self) -> bool {
        match self {
            Self::Kept(spool) => spool.seal(),
            Self::Empty | Self::Once(_) => self.can_be_sent(),
        }
    }
}

/// A request on its way.
pub(super) struct Passage<'a> {
    pub(super) client: &'a ClientConnection,
    pub(super) target: &'a Target,
    /// As it is sent.
    pub(super) head: Parts,
    pub(super) source: Source,
    pub(super) upload: Option<Arc<Upload>>,
    /// Takes interim responses to the client.
    pub(super) interim: Option<&'a Interim>,
    pub(super) record: &'a mut RequestRecord,
    pub(super) retry: Option<&'a Chosen<Retry>>,
    pub(super) budget: Budget<'a>,
    /// The place of the retry that is under way.
    pub(super) retrying: Option<Retrying>,
}

/// A try that came to nothing: why, and what the client is told if it was the last.
struct Failure {
    failed: Failed,
    rejection: Rejection,
    /// Nobody listens for HBONE there.
    nobody: bool,
}

impl Failure {
    fn connect(failure: &ConnectFailure) -> Self {
        tracing::debug!(%failure, "endpoint not reached");
        let reason = format!("upstream: {}", failure.brief());
        Self {
            failed: Failed::Unseen,
            rejection: Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::ConnectFailure, reason),
            nobody: failure.is_nobody_there(),
        }
    }

    fn too_large() -> Self {
        let reason = format!(
            "upstream: the head of the response has more than {} KiB or {} fields",
            limits::MAX_RESPONSE_HEAD >> 10,
            limits::MAX_FIELDS
        );
        Self {
            failed: Failed::Unusable,
            rejection: Rejection::new(StatusCode::BAD_GATEWAY, Flag::UpstreamReset, reason),
            nobody: false,
        }
    }

    fn reset(failed: Failed, error: &dyn std::fmt::Display) -> Self {
        tracing::debug!(%error, "endpoint did not respond");
        let reason = format!("upstream: no response: {error}");
        Self {
            failed,
            rejection: Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamReset, reason),
            nobody: false,
        }
    }
}

impl Passage<'_> {
    /// Tries until there is an answer for the client.
    pub(super) async fn run(&mut self) -> Result<(Response<Received>, UpstreamBodyParts), Rejection> {
        let mut tried: Vec<Arc<str>> = Vec::new();
        // An idle connection has been found stale: others may be too.
        let mut fresh = false;
        let mut leaving = None;
        let (proxy, target) = (&self.client.proxy, self.target);
        loop {
            let Some(endpoint) = target.choose(proxy, &tried) else {
                return Err(target.no_endpoint());
            };
            self.record.sent_to(&endpoint);
            self.authorize(&endpoint)?;
            if skew::has_joined(proxy, target, &endpoint, &mut tried).await {
                continue;
            }
            let failure = match self.attempt(&endpoint, &tried, fresh).await {
                Ok(Answered {
                    answer,
                    link,
                    deadline,
                }) => {
                    let status = answer.status();
                    if is_of_the_endpoint(status) {
                        endpoint.in_use.responded_badly();
                    } else {
                        endpoint.in_use.succeeded();
                    }
                    let Some(again) = self.again(Failed::Status(status)) else {
                        let parts = UpstreamBodyParts {
                            link,
                            endpoint,
                            deadline,
                        };
                        return Ok((answer, parts));
                    };
                    tried.push(Arc::clone(&endpoint.workload.uid));
                    let (_, incoming) = answer.into_parts();
                    UpstreamBody::new(incoming, link, &proxy.upstream, endpoint).discard();
                    self.pause(again).await;
                    continue;
                }
                Err(failure) => failure,
            };
            if let Some(rejection) = self.client_failure() {
                return Err(rejection);
            }
            if failure.nobody
                && !(self.has_retry() && target.has_another(proxy, &endpoint, &tried))
                && skew::has_left(proxy, &endpoint, &mut tried, &mut leaving).await
            {
                continue;
            }
            let Some(again) = self.again(failure.failed) else {
                return Err(self.last(failure));
            };
            fresh |= matches!(failure.failed, Failed::Stale | Failed::Unseen);
            tried.push(Arc::clone(&endpoint.workload.uid));
            drop(endpoint);
            self.pause(again).await;
        }
    }

    /// Takes a retry, if there is one and the body can be sent again. From then on no earlier try takes any of it: before the next one
    /// begins, more may come than is kept.
    ///
    /// One that a policy pays for needs a place in the service's retry budget. The one for nothing does not: its endpoint has done nothing
    /// for the request, and there is no more than one.
    fn again(&mut self, failed: Failed) -> Option<Again> {
        self.retrying = None;
        if self.budget.is_paid(failed) {
            self.retrying = self.client.retries.retry();
        }
        let again = self.budget.take(failed, self.retrying.is_some());
        let again = again.filter(|_| self.source.seal());
        if again.is_none() && self.lacks_place(failed) {
            self.record.not_retried();
        }
        if again.is_none_or(|again| !again.by_policy) {
            self.retrying = None;
        }
        again
    }

    /// Whether there is a retry once an endpoint is not reached.
    fn has_retry(&self) -> bool {
        let paid = self.budget.is_paid(Failed::Unseen) && self.client.retries.has_room();
        paid || self.budget.is_free(Failed::Unseen)
    }

    /// Whether it is for want of a place in the retry budget that there is no retry.
    fn lacks_place(&self, failed: Failed) -> bool {
        self.retrying.is_none() && self.budget.is_paid(failed) && self.source.can_be_sent()
    }

    /// What the client is told when nothing is tried any more.
    fn last(&self, failure: Failure) -> Rejection {
        let mut rejection = failure.rejection;
        if self.lacks_place(failure.failed) {
            rejection.reason = format!("{}; {RETRY_LIMIT}", rejection.reason);
        }
        rejection
    }

    async fn pause(&mut self, again: Again) {
        let policy = self.retry.filter(|_| again.by_policy);
        self.record.retried(policy.map(|retry| &retry.policy));
        if !again.pause.is_zero() {
            tokio::time::sleep(again.pause).await;
        }
    }

    fn authorize(&mut self, endpoint: &Endpoint) -> Result<(), Rejection> {
        let decision = self.client.decide_l4(&endpoint.workload, endpoint.target);
        self.record.decided(&decision);
        if decision.is_allowed() {
            return Ok(());
        }
        let reason = decision.reason.to_string();
        Err(Rejection::new(StatusCode::FORBIDDEN, Flag::Denied, reason))
    }

    /// What went wrong on the client's side of the body, if anything.
    fn client_failure(&self) -> Option<Rejection> {
        let upload = self.upload.as_ref()?;
        if upload.is_stalled() {
            let reason = format!(
                "the request's body: no data for {}s",
                self.client.proxy.timeouts.body.as_secs_f32()
            );
            return Some(Rejection::new(
                StatusCode::REQUEST_TIMEOUT,
                Flag::BadRequest,
                reason,
            ));
        }
        if upload.has_no_room() {
            return Some(Rejection::overloaded());
        }
        if !upload.is_broken() {
            return None;
        }
        Some(match self.client.watch.violation() {
            Some(violation) => Rejection::bad_request(violation),
            None => Rejection::new(
                StatusCode::BAD_REQUEST,
                Flag::ClientGone,
                "the request's body was cut",
            ),
        })
    }

    async fn attempt(
        &mut self,
        endpoint: &Endpoint,
        tried: &[Arc<str>],
        fresh: bool,
    ) -> Result<Answered, Failure> {
        let deadline = self.retry.and_then(Deadline::of_attempt);
        let sending = self.send(endpoint, tried, fresh);
        let (answer, link) = match &deadline {
            None => sending.await?,
            Some(deadline) => deadline.limit(sending).await.unwrap_or_else(|| {
                Err(Failure {
                    failed: Failed::Reset,
                    rejection: Rejection::late(deadline),
                    nobody: false,
                })
            })?,
        };
        Ok(Answered {
            answer,
            link,
            deadline,
        })
    }

    async fn send(
        &mut self,
        endpoint: &Endpoint,
        tried: &[Arc<str>],
        fresh: bool,
    ) -> Result<(Response<Received>, Link), Failure> {
        let destination = Destination::of(endpoint);
        let (proxy, target) = (&self.client.proxy, self.target);
        let upstream = &proxy.upstream;
        let last = !(self.source.can_be_sent() && self.has_retry());
        if self.head.version == Version::HTTP_2 {
            let sender = target
                .hasten(proxy, endpoint, tried, last, upstream.http2(&destination))
                .await
                .map_err(|failure| unreached(endpoint, &failure))?;
            let request = self.request()?;
            return match sender.send(request, &self.client.account, self.interim).await {
                Ok((response, place)) => Ok((response, Link::Http2(place))),
                Err(Http2Failure::Unsent(body)) => Err(self.unsent(*body)),
                Err(Http2Failure::Refused(error)) => Err(Failure::reset(Failed::Unseen, &brief(&error))),
                Err(Http2Failure::Failed(error)) => Err(Failure::reset(Failed::Reset, &brief(&error))),
            };
        }
        let idle = (!fresh).then(|| upstream.idle_http1(&destination)).flatten();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let connecting = target.hasten(proxy, endpoint, tried, last, upstream.http1(&destination));
                // Large, and seldom needed: inline it would be a part of every request, and be moved with it.
                Box::pin(connecting)
                    .await
                    .map_err(|failure| unreached(endpoint, &failure))?
            }
        };
        let request = self.request()?;
        match connection.send(request, &self.client.account, self.interim).await {
            Ok(answer) => Ok((answer.map(Received::Http1), Link::Http1(connection))),
            Err(Http1Failure::Unsent(request)) => Err(self.unsent(request.into_body())),
            Err(Http1Failure::Stale(error)) => Err(Failure::reset(Failed::Stale, &brief(&error))),
            Err(Http1Failure::TooLarge) => Err(Failure::too_large()),
            Err(Http1Failure::Failed(error)) => Err(Failure::reset(Failed::Reset, &brief(&error))),
        }
    }

    fn unsent(&mut self, body: RequestBody) -> Failure {
        self.source.restore(body);
        Failure::reset(Failed::Unseen, &"its connection was closed")
    }

    fn request(&mut self) -> Result<Request<RequestBody>, Failure> {
        let gone = || Failure::reset(Failed::Reset, &"the request's body was sent already");
        let body = self.source.body().ok_or_else(gone)?;
        Ok(Request::from_parts(self.head.clone(), body))
    }
}

/// What proxies and servers respond that can do nothing at the moment.
fn is_of_the_endpoint(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Where nobody is there, the endpoint is avoided for a while.
fn unreached(endpoint: &Endpoint, failure: &ConnectFailure) -> Failure {
    if failure.is_absence() {
        endpoint.in_use.failed();
    }
    Failure::connect(failure)
}

/// An attempt's answer.
struct Answered {
    answer: Response<Received>,
    link: Link,
    deadline: Option<Deadline>,
}

/// What an answer comes with.
pub(super) struct UpstreamBodyParts {
    pub(super) link: Link,
    pub(super) endpoint: Endpoint,
    /// The attempt's.
    pub(super) deadline: Option<Deadline>,
}

/// The innermost cause, which says most.
pub(super) fn brief(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
