//! A client's connection over HTTP/2.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::SystemTime;

use ambit_hbone::Turns;
use ambit_runtime::log_permit;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::connection::ClientConnection;
use super::super::request;
use super::super::response::ResponseBody;
use super::farewell::{Farewell, Next};
use crate::account::{Outbox, Parcel};
use crate::admission::HTTP2_CONNECTION;
use crate::http::io::ClientIo;
use crate::http::{ClientStream, Interim, Respond, limits};
use crate::http2::{FRAME_BUDGET, FrameIo, Inflow, OutflowError, send_body};
use crate::observe::Refusal;
use crate::received::Received;

/// Bytes before the first frame.
const PREFACE: usize = 24;

pub(super) async fn serve<IO: ClientStream>(mut client: ClientConnection, io: IO, prefix: Bytes) {
    client.http2 = true;
    let Some(_held) = client.account.admit(HTTP2_CONNECTION) else {
        return client.proxy.observer.refused(Refusal::Overloaded);
    };
    let client = Arc::new(client);
    let io = FrameIo::new(ClientIo::new(io, prefix), PREFACE);
    let flushed = io.flushed();
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_header_list_size(limits::MAX_HEAD as u32)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(limits::MAX_ERROR_RESETS))
        // Frames may be under way of those that were answered early.
        .max_concurrent_reset_streams(limits::MAX_STREAMS as usize)
        .data_frame_budget(FRAME_BUDGET)
        .handshake::<_, Parcel>(io);
    let connection = tokio::select! {
        connection = handshake => connection,
        Some(()) = ending.next() => return,
    };
    let result = match connection {
        Ok(mut connection) => {
            let turns = Turns::default();
            let _turning = turns.turning();
            let mut calm = FuturesUnordered::from_iter([client.calm.notified()]);
            // Each request has a copy until the last byte of its response is written.
            let under_way = Arc::new(());
            let mut farewell = Farewell::new(client.proxy.timeouts.farewell);
            loop {
                let accept = poll_fn(|cx| turns.poll(cx, |cx| connection.poll_accept(cx)));
                tokio::select! {
                    biased;
                    accepted = accept => match accepted {
                        Some(Ok((request, respond))) => {
                            farewell.request();
                            dispatch(&client, request, respond, &turns, &under_way);
                        }
                        Some(Err(error)) => break Err(error),
                        None => break Ok(()),
                    },
                    Some(()) = ending.next() => {
                        connection.graceful_shutdown();
                        farewell.begin();
                    }
                    Some(()) = calm.next() => {
                        if !calm_down(&client, &mut connection) {
                            return;
                        }
                        farewell.begin();
                        calm.push(client.calm.notified());
                    }
                    () = farewell.period() => {
                        let written = Arc::strong_count(&under_way) == 1 && flushed.load(Ordering::Acquire);
                        match farewell.over(written) {
                            Next::Wait => {}
                            Next::Close => connection.abrupt_shutdown(Reason::NO_ERROR),
                            Next::Cut => return,
                        }
                    }
                }
            }
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        report(&client, &error);
    }
}

/// What is done with a client that gives up more requests than are answered: it is told to use another connection, and at last this one
/// is cut (false).
fn calm_down<IO>(client: &ClientConnection, connection: &mut Connection<IO, Parcel>) -> bool
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if client.abandoned() > limits::MAX_ABANDONED_AT_ALL {
        client.proxy.observer.refused(Refusal::BadRequest);
        if log_permit(&client.identity.to_string(), "abandoned") {
            tracing::warn!(
                src.identity = %client.identity,
                src.addr = %client.peer,
                limit = limits::MAX_ABANDONED_AT_ALL,
                "the client repeatedly resets requests: its connection is closed"
            );
        }
        return false;
    }
    if log_permit(&client.identity.to_string(), "giving_up") {
        tracing::info!(
            src.identity = %client.identity,
            src.addr = %client.peer,
            limit = limits::MAX_ABANDONED,
            "the client resets more requests than get a response: GOAWAY"
        );
    }
    connection.graceful_shutdown();
    true
}

fn report(client: &ClientConnection, error: &h2::Error) {
    let broken = error.is_library() || (error.is_go_away() && error.reason() != Some(Reason::NO_ERROR));
    if broken {
        client.broke_protocol(&error.to_string());
    } else {
        tracing::debug!(%error, "the client's connection failed");
    }
}

fn dispatch(
    client: &Arc<ClientConnection>,
    request: Request<RecvStream>,
    respond: SendResponse<Parcel>,
    turns: &Turns,
    under_way: &Arc<()>,
) {
    let (head, recv) = request.into_parts();
    let body = Inflow::new(recv, &head.headers, turns, &client.account);
    let is_head = head.method == Method::HEAD;
    let request = Request::from_parts(head, Received::Http2(body));
    let client = Arc::clone(client);
    let requests = client.proxy.requests.clone();
    let outbox = Outbox::of(client.account.clone(), Arc::clone(under_way));
    requests.spawn(async move {
        let respond: Respond = Arc::new(Mutex::new(respond));
        let interim = Interim::http2(&respond);
        let handled = request::handle(client, request, Some(interim));
        let Some(response) = unless_reset(&respond, handled).await else {
            return;
        };
        if let Err(error) = send(response, is_head, &respond, outbox).await {
            tracing::debug!(%error, "a response was not sent completely");
        }
    });
}

/// `None` when the client resets the stream before.
async fn unless_reset<T>(respond: &Respond, handled: impl Future<Output = T>) -> Option<T> {
    let mut handled = pin!(handled);
    poll_fn(|cx| match handled.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.lock().poll_reset(cx).map(|_| None),
    })
    .await
}

async fn send(
    response: Response<ResponseBody>,
    is_head: bool,
    respond: &Respond,
    outbox: Outbox,
) -> Result<(), OutflowError> {
    let (mut head, body) = response.into_parts();
    head.extensions.clear();
    head.headers.entry(DATE).or_insert_with(now);
    let mut empty = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !empty) {
        head.headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    // Of the waypoint's own: no content, but the length that it would have (RFC 9110 §9.3.2).
    empty |= is_head && matches!(body, ResponseBody::Text(_));
    let sent = respond
        .lock()
        .send_response(Response::from_parts(head, ()), empty);
    match sent {
        Ok(_) if empty => Ok(()),
        Ok(stream) => send_body(body, stream, outbox).await,
        Err(error) => {
            respond.lock().send_reset(Reason::INTERNAL_ERROR);
            Err(OutflowError::Stream(error))
        }
    }
}

fn now() -> HeaderValue {
    // A date is made of characters that a field may have.
    HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
        .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}
