//! HTTP/2 to endpoints: connections shared by requests.

mod pool;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ambit_hbone::Turns;
use h2::{Ping, PingPong};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::connect::ConnectFailure;
use super::connection::UpstreamIo;
use crate::account::{Account, Outbox, Parcel};
use crate::http::limits::{MAX_RESPONSE_HEAD, SEND_BUFFER, STREAM_WINDOW};
use crate::http::{Interim, RequestBody};
use crate::http2::{FRAME_BUDGET, FrameIo, Inflow, send_body};
use crate::received::Received;

pub(super) use pool::Http2Pool;

/// Requests on a connection before another one is opened, where the endpoint allows as many.
const MAX_REQUESTS: u32 = 100;

/// Why a request got no response.
pub(crate) enum Http2Failure {
    /// Nothing of it was sent.
    Unsent(Box<RequestBody>),
    /// The endpoint says that it has not looked at it.
    Refused(h2::Error),
    /// It may have been looked at.
    Failed(h2::Error),
}

/// A place on a connection, for one request.
pub(crate) struct Http2Sender {
    connection: Arc<Shared>,
    place: Place,
}

/// Held until the response has ended.
pub(crate) struct Place {
    load: Arc<Load>,
    /// What is left of the request's body: it goes on while the response does, and for longer once that has ended as it should.
    upload: Option<AbortOnDropHandle<()>>,
}

struct Load {
    requests: AtomicU32,
    idle_since: Mutex<Instant>,
    /// Those who wait for a place.
    changed: Arc<Notify>,
}

impl Place {
    fn take(load: &Arc<Load>) -> Self {
        load.requests.fetch_add(1, Ordering::AcqRel);
        Self {
            load: Arc::clone(load),
            upload: None,
        }
    }

    /// The response has ended: what is left of the request's body may go on.
    pub(crate) fn complete(mut self) {
        if let Some(upload) = self.upload.take() {
            drop(upload.detach());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.load.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.load.idle_since.lock() = Instant::now();
        }
        self.load.changed.notify_waiters();
    }
}

/// A connection.
struct Shared {
    sender: h2::client::SendRequest<Parcel>,
    turns: Turns,
    load: Arc<Load>,
    tasks: TaskTracker,
    /// From then on it takes no more requests.
    old: Instant,
    /// Bytes that have arrived on it, and as many as there were when a request on it got no response in time.
    heard: Arc<AtomicU64>,
    suspected: AtomicU64,
    ended: Arc<AtomicBool>,
}

/// No suspicion.
const TRUSTED: u64 = u64::MAX;

impl Shared {
    /// Whether it takes requests at all.
    fn is_open(&self) -> bool {
        let goes_away = || {
            let mut cx = Context::from_waker(Waker::noop());
            matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
        };
        !self.ended.load(Ordering::Acquire) && Instant::now() < self.old && !goes_away()
    }

    /// Whether it has been silent since a request on it got no response in time: its endpoint may be gone.
    fn is_suspected(&self) -> bool {
        let suspected = self.suspected.load(Ordering::Relaxed);
        suspected != TRUSTED && suspected == self.heard.load(Ordering::Relaxed)
    }

    /// Whether another request would be sent at once. Past what the endpoint allows (SETTINGS_MAX_CONCURRENT_STREAMS; until it has said
    /// so, 100), it would wait for the end of others.
    fn has_room(&self) -> bool {
        let used = self.load.requests.load(Ordering::Acquire);
        let allowed = || self.sender.current_max_send_streams();
        !self.is_suspected() && (used == 0 || (used < MAX_REQUESTS && (used as usize) < allowed()))
    }
}

impl Http2Sender {
    /// Sends a request and awaits the head of its response. Of interim responses (1xx) `interim` is told. What waits of both bodies is on
    /// the `account`.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
        account: &Account,
        interim: Option<&Interim>,
    ) -> Result<(Response<Received>, Place), Http2Failure> {
        let (mut head, body) = request.into_parts();
        let Ok(mut sender) = self.connection.sender.clone().ready().await else {
            return Err(Http2Failure::Unsent(Box::new(body)));
        };
        let has_content =
            |length| length > 0 || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = body.size_hint().exact().filter(|length| has_content(*length)) {
            head.headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(length));
        }
        let empty = body.is_end_stream();
        head.extensions.clear();
        let sent = sender.send_request(Request::from_parts(head, ()), empty);
        let Ok((response, stream)) = sent else {
            return Err(Http2Failure::Unsent(Box::new(body)));
        };
        drop(sender);
        let suspicion = Suspicion::new(&self.connection);
        let mut response = pin!(response);
        // While the head is awaited the body is sent from here; most are sent by then.
        let mut upload = (!empty).then(|| Box::pin(send_body(body, stream, Outbox::new(account.clone()))));
        let result = std::future::poll_fn(|cx| {
            if let Some(Poll::Ready(sent)) = upload.as_mut().map(|upload| upload.as_mut().poll(cx)) {
                upload = None;
                if let Err(error) = sent {
                    tracing::debug!(%error, "a request's body was not sent completely");
                }
            }
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                if let Some(interim) = interim {
                    interim.forward(head.status(), head.headers());
                }
            }
            response.as_mut().poll(cx)
        })
        .await;
        suspicion.dispel();
        match result {
            Ok(response) => {
                if let Some(upload) = upload {
                    let sending = async move {
                        if let Err(error) = upload.await {
                            tracing::debug!(%error, "a request's body was not sent completely");
                        }
                    };
                    let task = self.connection.tasks.spawn(sending);
                    self.place.upload = Some(AbortOnDropHandle::new(task));
                }
                let (head, recv) = response.into_parts();
                let body = Inflow::new(recv, &head.headers, &self.connection.turns, account);
                Ok((Response::from_parts(head, Received::Http2(body)), self.place))
            }
            Err(error) if is_refused(&error) => Err(Http2Failure::Refused(error)),
            Err(error) => Err(Http2Failure::Failed(error)),
        }
    }
}

/// Suspects a connection whose request is given up, if nothing at all has arrived on it since the request was sent.
struct Suspicion<'a> {
    connection: &'a Shared,
    since: Instant,
    heard: u64,
}

impl<'a> Suspicion<'a> {
    fn new(connection: &'a Shared) -> Self {
        Self {
            heard: connection.heard.load(Ordering::Relaxed),
            since: Instant::now(),
            connection,
        }
    }

    fn dispel(self) {
        std::mem::forget(self);
    }
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        // Clients that cancel at once tell nothing of the endpoint.
        if self.since.elapsed() >= SILENCE && self.heard == self.connection.heard.load(Ordering::Relaxed) {
            self.connection.suspected.store(self.heard, Ordering::Relaxed);
        }
    }
}

/// What a connection that lives acknowledges a request within, by a WINDOW_UPDATE or the response to another one.
const SILENCE: Duration = Duration::from_millis(500);

/// REFUSED_STREAM, or a stream above the last one that a GOAWAY names, whatever its reason (RFC 9113 §6.8, §8.7). h2 reports a GOAWAY for these
/// streams alone: those below end with the connection.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away())
}

/// Begins HTTP/2 on a connection, which a task of its own drives until it ends.
async fn handshake(
    io: UpstreamIo,
    old: Instant,
    changed: Arc<Notify>,
    tasks: &TaskTracker,
    ping: Option<Duration>,
) -> Result<Shared, h2::Error> {
    let heard = io.received();
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        // Of all requests together: many clients share the connection, and none that does not read may hold the others up.
        .initial_connection_window_size(MAX_REQUESTS * STREAM_WINDOW)
        .initial_max_send_streams(MAX_REQUESTS as usize)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_RESPONSE_HEAD as u32)
        .data_frame_budget(FRAME_BUDGET)
        // Frames on streams that clients have cancelled and that are forgotten here count, for as long as the connection lives.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(4 * MAX_REQUESTS as usize)
        .enable_push(false)
        .handshake::<_, Parcel>(FrameIo::new(io, 0))
        .await?;
    let load = Arc::new(Load {
        requests: AtomicU32::new(0),
        idle_since: Mutex::new(Instant::now()),
        changed,
    });
    let pings = connection.ping_pong();
    let silent = {
        let load = Arc::clone(&load);
        async move {
            match pings.zip(ping) {
                Some((pings, interval)) => until_silent(pings, interval, &load).await,
                None => std::future::pending().await,
            }
        }
    };
    let (turns, ended) = (Turns::default(), Arc::<AtomicBool>::default());
    let (taken, over, waiting) = (turns.clone(), Arc::clone(&ended), Arc::clone(&load.changed));
    let turning = turns.turning();
    tasks.spawn(async move {
        let _turning = turning;
        let driven =
            std::future::poll_fn(|cx| taken.poll(cx, |cx| std::pin::Pin::new(&mut connection).poll(cx)));
        tokio::select! {
            driven = driven => if let Err(error) = driven {
                tracing::debug!(%error, "HTTP/2 connection to an endpoint ended");
            },
            () = silent => tracing::info!("an endpoint does not respond to PING: its HTTP/2 connection \
                 is closed"),
        }
        over.store(true, Ordering::Release);
        waiting.notify_waiters();
    });
    Ok(Shared {
        sender,
        turns,
        load,
        tasks: tasks.clone(),
        old,
        heard,
        suspected: AtomicU64::new(TRUSTED),
        ended,
    })
}

/// Resolves when requests are under way and a PING is not answered for two intervals: nobody is there any more.
async fn until_silent(mut pings: PingPong, interval: Duration, load: &Load) {
    loop {
        tokio::time::sleep(interval).await;
        if load.requests.load(Ordering::Acquire) == 0 {
            continue;
        }
        match tokio::time::timeout(2 * interval, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

fn unreachable(address: std::net::SocketAddr, error: h2::Error) -> ConnectFailure {
    ConnectFailure::Tcp(address, Arc::new(std::io::Error::other(error)))
}
