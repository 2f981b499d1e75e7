//! Copies of requests for other backends (`RequestMirror`). Their responses are thrown away, and nothing waits for them.
//!
//! A copy is sent after the response to the request itself has begun, so a body is mirrored if it has ended by then and
//! is short enough to be kept ([`MAX_REPLAY`](crate::http::limits::MAX_REPLAY)). Copies count towards the caller's
//! share of requests and bytes, as requests do; without room there is none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Version};
use http_body::Body;

use super::asked::Asked;
use super::connection::{ClientConnection, Target};
use super::request::prepare;
use super::response::{Link, UpstreamBody};
use super::route::Forward;
use crate::admission::REQUEST;
use crate::http::RequestBody;
use crate::http::headers;
use crate::received::Received;
use crate::upstream::Destination;

/// The longest that a copy may take.
const LONGEST: Duration = Duration::from_secs(30);

/// Sends copies of a request to those of the mirrors that apply to it, over the version of HTTP that each takes.
pub(super) fn send(
    client: &Arc<ClientConnection>,
    forward: &Forward,
    frontend: &Target,
    head: &Parts,
    authority: Option<&Authority>,
    body: Option<&Bytes>,
) {
    for mirror in forward.mirrors().filter(|mirror| mirror.applies(rand::random())) {
        let Some(target) = client.backend(&mirror.id, mirror.port) else {
            continue;
        };
        let consumers = forward.is_consumers(frontend, &target);
        let bytes = REQUEST + headers::size(&head.headers) + body.map_or(0, Bytes::len);
        let Some(admitted) = client.requests.take().zip(client.account.admit(bytes)) else {
            tracing::debug!(backend = mirror.id, "no room for a copy of a request");
            continue;
        };
        let body = body
            .cloned()
            .map_or(RequestBody::Empty, |body| RequestBody::Whole(Some(body)));
        let mut copy = head.clone();
        let http2 = client.http2 || target.is_http2();
        if let Err(rejection) = prepare(http2, &mut copy, !body.is_end_stream(), authority, false) {
            tracing::debug!(reason = rejection.reason, "no copy of a request");
            continue;
        }
        let asked = Asked::new(&copy, authority);
        let request = Request::from_parts(copy, body);
        let (tasks, client) = (client.proxy.requests.clone(), Arc::clone(client));
        tasks.spawn(async move {
            let delivered =
                tokio::time::timeout(LONGEST, deliver(&client, &target, &asked, consumers, request)).await;
            if let Err(reason) = delivered.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                tracing::debug!(reason, "a copy of a request was not delivered");
            }
            drop(admitted);
        });
    }
}

async fn deliver(
    client: &ClientConnection,
    target: &Target,
    asked: &Asked,
    consumers: bool,
    request: Request<RequestBody>,
) -> Result<(), String> {
    let decision = asked.decide_for(client, target, consumers);
    if !decision.map_err(|rejection| rejection.reason)?.is_allowed() {
        return Err("the backend's rules deny it".to_owned());
    }
    let endpoint = target.choose(&client.proxy, &[]);
    let endpoint = endpoint.ok_or_else(|| target.no_endpoint().reason)?;
    if !client.decide_l4(&endpoint.workload, endpoint.target).is_allowed() {
        return Err("the endpoint's rules deny it".to_owned());
    }
    let (upstream, to) = (&client.proxy.upstream, Destination::of(&endpoint));
    let unreached = |failure: crate::upstream::ConnectFailure| failure.to_string();
    let (response, link) = if request.version() == Version::HTTP_2 {
        let sender = upstream.http2(&to).await.map_err(unreached)?;
        let sent = sender.send(request, &client.account, None).await;
        let (response, place) = sent.map_err(|_| "no response".to_owned())?;
        (response, Link::Http2(place))
    } else {
        let mut connection = upstream.http1(&to).await.map_err(unreached)?;
        let sent = connection.send(request, &client.account, None).await;
        let response = sent.map_err(|_| "no response".to_owned())?;
        (response.map(Received::Http1), Link::Http1(connection))
    };
    UpstreamBody::new(response.into_body(), link, upstream, endpoint).discard();
    Ok(())
}
