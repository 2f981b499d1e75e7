//! HTTP/2 to endpoints: connections shared by requests.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::connect::{ConnectFailure, UpstreamIo};
use super::executor::TrackedExecutor;
use super::{Destination, Key, Upstream};
use crate::http::RequestBody;
use crate::http::limits::{MAX_HEAD, SEND_BUFFER, STREAM_WINDOW};

/// Requests on a connection before another one is opened, where the endpoint allows as many.
const MAX_REQUESTS: u32 = 100;

/// Why a request got no answer.
pub(crate) enum Http2Failure {
    /// Nothing of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The endpoint says that it has not looked at it.
    Refused(hyper::Error),
    /// It may have been looked at.
    Failed(hyper::Error),
}

/// A place on a connection, for one request.
pub(crate) struct Http2Sender {
    sender: SendRequest<RequestBody>,
    place: Place,
}

/// Held until the answer has ended.
pub(crate) struct Place(Arc<Load>);

#[derive(Debug)]
struct Load {
    requests: AtomicU32,
    idle_since: Mutex<Instant>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.idle_since.lock() = Instant::now();
        }
    }
}

impl Http2Sender {
    /// Sends a request and awaits the head of its answer.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Place), Http2Failure> {
        match self.sender.try_send_request(request).await {
            Ok(answer) => Ok((answer, self.place)),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Http2Failure::Unsent(Box::new(request)),
                None if is_refused(error.error()) => Http2Failure::Refused(error.into_error()),
                None => Http2Failure::Failed(error.into_error()),
            }),
        }
    }
}

/// REFUSED_STREAM, or a stream above the last one that a graceful GOAWAY names (RFC 9113 §8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_remote()
                && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)));
        }
        source = error.source();
    }
    false
}

/// Driven by a task of its own, which holds it.
type Driven = Mutex<Connection<TokioIo<UpstreamIo>, RequestBody, TrackedExecutor>>;

struct Shared {
    sender: SendRequest<RequestBody>,
    connection: Weak<Driven>,
    load: Arc<Load>,
}

impl Shared {
    /// Whether another request would be sent at once. Past what the endpoint allows (SETTINGS_MAX_CONCURRENT_STREAMS; until it has said
    /// so, 100), it would wait for the end of others.
    fn has_room(&self) -> bool {
        let used = self.load.requests.load(Ordering::Acquire);
        let allowed = || {
            let connection = self.connection.upgrade();
            connection.map_or(0, |connection| connection.lock().current_max_send_streams())
        };
        used == 0 || (used < MAX_REQUESTS && (used as usize) < allowed())
    }
}

type Slot = Arc<tokio::sync::Mutex<Connections>>;

#[derive(Default)]
struct Connections {
    open: Vec<Shared>,
    /// When the last attempt failed, and why: those who waited for it do not wait once more.
    failed: Option<(Instant, ConnectFailure)>,
}

pub(super) struct Http2Pool {
    slots: Mutex<HashMap<Key, Slot>>,
    tasks: TaskTracker,
}

impl Http2Pool {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            slots: Mutex::default(),
            tasks,
        }
    }

    fn slot(&self, key: Key) -> Slot {
        Arc::clone(self.slots.lock().entry(key).or_default())
    }

    pub(super) fn sweep(&self, timeout: Duration) {
        self.slots.lock().retain(|_, slot| {
            // One that is locked is in use.
            let Ok(mut connections) = slot.try_lock() else {
                return true;
            };
            connections.open.retain(|shared| {
                let idle = shared.load.requests.load(Ordering::Acquire) == 0;
                let old = idle && shared.load.idle_since.lock().elapsed() >= timeout;
                !shared.sender.is_closed() && !old
            });
            !connections.open.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    pub(super) fn evict(&self, workload: &str) {
        self.slots.lock().retain(|key, _| &*key.workload != workload);
    }

    pub(super) fn clear(&self) {
        self.slots.lock().clear();
    }
}

/// A place on one of the connections that take requests.
fn place(connections: &mut Vec<Shared>) -> Option<Http2Sender> {
    connections.retain(|shared| !shared.sender.is_closed());
    let free = connections.iter().find(|shared| shared.has_room())?;
    free.load.requests.fetch_add(1, Ordering::AcqRel);
    Some(Http2Sender {
        sender: free.sender.clone(),
        place: Place(Arc::clone(&free.load)),
    })
}

impl Upstream {
    /// A place on a connection, which is made where there is none. Those who need it at the same time wait for the same one.
    pub(crate) async fn http2(&self, to: &Destination) -> Result<Http2Sender, ConnectFailure> {
        let slot = self.http2.slot(to.key());
        let asked = Instant::now();
        let mut connections = slot.lock().await;
        if let Some(sender) = place(&mut connections.open) {
            return Ok(sender);
        }
        if let Some((at, failure)) = &connections.failed
            && *at >= asked
        {
            return Err(failure.clone());
        }
        // Large, and seldom needed.
        let result = Box::pin(self.new_http2(to)).await;
        match result {
            Ok((shared, sender)) => {
                connections.failed = None;
                connections.open.push(shared);
                Ok(sender)
            }
            Err(failure) => {
                connections.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn new_http2(&self, to: &Destination) -> Result<(Shared, Http2Sender), ConnectFailure> {
        let failed =
            |error| ConnectFailure::Tcp(to.address, Arc::new(std::io::Error::other::<hyper::Error>(error)));
        let io = self.connect(to).await?;
        let (sender, connection) = Builder::new(TrackedExecutor(self.http2.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            // Of all requests together: many clients share the connection, and none that does not read may hold the others up.
            .initial_connection_window_size(MAX_REQUESTS * STREAM_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(io))
            .await
            .map_err(failed)?;
        let address = to.address;
        let connection = Arc::new(Mutex::new(connection));
        let shared_connection = Arc::downgrade(&connection);
        self.http2.tasks.spawn(async move {
            let ended = std::future::poll_fn(|cx| Pin::new(&mut *connection.lock()).poll(cx));
            if let Err(error) = ended.await {
                tracing::debug!(%error, %address, "HTTP/2 connection to an endpoint ended");
            }
        });
        let load = Arc::new(Load {
            requests: AtomicU32::new(1),
            idle_since: Mutex::new(Instant::now()),
        });
        let shared = Shared {
            sender: sender.clone(),
            connection: shared_connection,
            load: Arc::clone(&load),
        };
        let place = Place(load);
        Ok((shared, Http2Sender { sender, place }))
    }
}
