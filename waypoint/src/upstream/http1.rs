//! HTTP/1.1 to endpoints. A connection has no task of its own: who uses it drives it, so that a request and its answer need no wake-ups
//! between tasks.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};

use super::connect::{ConnectFailure, Connector};
use super::connection::{Payers, Rewrite, UpstreamIo};
use super::destination::{Destination, Key};
use crate::account::{Account, Taken};
use crate::http::limits::{MAX_BUFFER, MAX_FIELDS, MAX_RESPONSE_HEAD};
use crate::http::{Interim, RawTarget, RequestBody};

/// Idle connections of a worker to one endpoint, at most.
const MAX_IDLE: usize = 512;
/// How long the other end of a closed connection gets to close it too.
const LINGER: Duration = Duration::from_secs(5);
/// Connections of a worker that wait for that, at most. Those that have waited longest are reset.
const MAX_CLOSING: usize = 512;

/// Why a request got no answer.
pub(crate) enum Http1Failure {
    /// Nothing of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The endpoint closed a connection that had been in use before, without a byte of an answer: most likely before it read the request.
    Stale(hyper::Error),
    /// It may have been looked at.
    Failed(hyper::Error),
    /// The head of the response is larger than the waypoint takes.
    TooLarge,
}

/// A connection that carries one request at a time. Dropped before its answer's end it is reset.
pub(crate) struct Http1Connection {
    key: Key,
    /// `None` once it takes no more requests: then hyper closes it.
    sender: Option<SendRequest<Taken<RequestBody>>>,
    /// `None` once it has ended.
    connection: Option<Connection<TokioIo<UpstreamIo>, Taken<RequestBody>>>,
    /// What is left of it then: the bytes, and what was read of them already.
    rest: Option<(UpstreamIo, Bytes)>,
    received: Arc<AtomicU64>,
    rewrite: Rewrite,
    payers: Payers,
    /// Requests sent.
    used: u32,
    /// From then on it takes no more requests.
    old: Instant,
    /// Bytes may follow the last response that are not of the next one.
    uncertain: bool,
}

impl Http1Connection {
    /// A new connection.
    pub(super) async fn open(connector: &Connector, to: &Destination) -> Result<Box<Self>, ConnectFailure> {
        let key = to.key();
        let io = connector.connect(to).await?;
        let (received, rewrite, payers) = (io.received(), io.rewrite(), io.payers());
        let (sender, connection) = Builder::new()
            .max_buf_size(MAX_BUFFER)
            .max_header_size(MAX_RESPONSE_HEAD)
            .max_headers(MAX_FIELDS)
            .preserve_header_case(true)
            .writev(false)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectFailure::Tcp(to.address, Arc::new(std::io::Error::other(error))))?;
        Ok(Box::new(Self {
            key,
            sender: Some(sender),
            connection: Some(connection),
            rest: None,
            received,
            rewrite,
            payers,
            used: 0,
            old: connector.old(),
            uncertain: false,
        }))
    }

    /// Lets the connection read and write.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Poll::Ready(result) = Pin::new(connection).poll(cx) else {
            return;
        };
        if let Err(error) = result {
            tracing::debug!(%error, address = %self.key.address, "connection to an endpoint ended");
        }
        // A request that it took and never looked at comes back only when it is dropped.
        if let Some(connection) = self.connection.take() {
            let parts = connection.into_parts();
            self.rest = Some((parts.io.into_inner(), parts.read_buf));
        }
    }

    /// Sends a request and awaits the head of its answer; `interim` gets what comes before (1xx). The answer's body comes only while the
    /// connection is driven. What waits on the connection is on the `account` until it is given back.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        account: &Account,
        interim: Option<&Interim>,
    ) -> Result<Response<Incoming>, Http1Failure> {
        let Some(sender) = &mut self.sender else {
            return Err(Http1Failure::Unsent(Box::new(request)));
        };
        let received = self.received.load(Ordering::Relaxed);
        let reused = self.used > 0;
        self.used = self.used.saturating_add(1);
        if let Some(RawTarget(raw)) = request.extensions_mut().remove() {
            let line = |target: &[u8]| {
                let method = request.method().as_str().as_bytes();
                Bytes::from([method, &b" "[..], target].concat())
            };
            let target = request
                .uri()
                .path_and_query()
                .map_or("/", |target| target.as_str());
            *self.rewrite.lock() = Some((line(target.as_bytes()), line(&raw)));
        }
        if let Some(interim) = interim.cloned() {
            hyper::ext::on_informational(&mut request, move |response| {
                interim.forward(response.status(), response.headers());
            });
        }
        self.payers.set(Some(account));
        let is_head = request.method() == Method::HEAD;
        let unwritten = self.payers.unwritten();
        let answer = sender.try_send_request(request.map(|body| unwritten.of(body)));
        tokio::pin!(answer);
        let result = std::future::poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        self.uncertain = result
            .as_ref()
            .is_ok_and(|response| is_end_uncertain(is_head, response));
        result.map_err(|mut error| match error.take_message() {
            Some(request) => Http1Failure::Unsent(Box::new(request.map(Taken::into_inner))),
            None if reused && self.received.load(Ordering::Relaxed) == received => {
                Http1Failure::Stale(error.into_error())
            }
            None if error.error().is_parse_too_large() => Http1Failure::TooLarge,
            None => Http1Failure::Failed(error.into_error()),
        })
    }

    /// After an answer of 101: the bytes, and what was read of them already.
    pub(crate) async fn into_upgraded(mut self) -> (UpstreamIo, Bytes) {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            match self.rest.take() {
                Some(rest) => Poll::Ready(rest),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Whether it has been found closed, or still works on a request.
    fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some()
            && !self.uncertain
            && Instant::now() < self.old
            && self.sender.as_ref().is_some_and(SendRequest::is_ready)
    }

    /// Ends an idle connection from here.
    fn close(mut self) -> Option<Closing> {
        self.sender = None;
        self.drive(&mut Context::from_waker(Waker::noop()));
        let io = match (self.connection, self.rest) {
            (Some(connection), _) => connection.into_parts().io.into_inner(),
            (None, Some((io, _))) => io,
            (None, None) => return None,
        };
        let since = Instant::now();
        Some(Closing { io, since })
    }
}

/// Whether more bytes may come after the end that HTTP/1 sets for a response: where it has no body by rule, an application
/// that sends one nevertheless leaves it on the connection, and the next request would get it for a response (RFC 9112
/// sections 6.3 and 9.3).
fn is_end_uncertain(is_head: bool, response: &Response<Incoming>) -> bool {
    let announces_body = || {
        let length = response.headers().get(CONTENT_LENGTH);
        length.is_some_and(|length| length != "0") || response.headers().contains_key(TRANSFER_ENCODING)
    };
    match response.status() {
        // What an application does with HEAD cannot be told from the head.
        _ if is_head => true,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => announces_body(),
        _ => false,
    }
}

/// A connection that was closed from here. Dropped before the other end has closed it too it is reset, which applications log as an error.
struct Closing {
    io: UpstreamIo,
    since: Instant,
}

impl Closing {
    /// Whether the other end has closed it, or has had long enough to.
    fn is_over(&mut self) -> bool {
        let mut rest = [MaybeUninit::uninit(); 256];
        let mut rest = ReadBuf::uninit(&mut rest);
        let mut cx = Context::from_waker(Waker::noop());
        let ended = Pin::new(&mut self.io).poll_read(&mut cx, &mut rest).is_ready();
        ended || self.since.elapsed() >= LINGER
    }
}

#[derive(Default)]
pub(super) struct Http1Pool {
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
    closing: Mutex<Vec<Closing>>,
}

struct Idle {
    connection: Box<Http1Connection>,
    since: Instant,
}

impl Http1Pool {
    /// The connection that was used last: the others may grow old.
    pub(super) fn take(&self, key: &Key) -> Option<Box<Http1Connection>> {
        loop {
            let mut idle = self.idle.lock().get_mut(key)?.pop()?;
            if idle.connection.is_usable() {
                return Some(idle.connection);
            }
        }
    }

    /// Takes a connection back whose answer has ended; closes it if it cannot take another request.
    pub(super) fn give_back(&self, mut connection: Box<Http1Connection>) {
        let usable = connection.is_usable();
        connection.payers.set(None);
        if usable {
            self.put(connection);
        } else {
            self.close([connection]);
        }
    }

    fn put(&self, connection: Box<Http1Connection>) {
        let mut idle = self.idle.lock();
        let list = match idle.get_mut(&connection.key) {
            Some(list) => list,
            None => idle.entry(connection.key.clone()).or_default(),
        };
        if list.len() < MAX_IDLE {
            list.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes what has been idle for so long.
    pub(super) fn sweep(&self, timeout: Duration) {
        let mut gone = Vec::new();
        self.idle.lock().retain(|_, list| {
            gone.extend(list.extract_if(.., |idle| {
                idle.since.elapsed() >= timeout || !idle.connection.is_usable()
            }));
            !list.is_empty()
        });
        self.close(gone.into_iter().map(|idle| idle.connection));
    }

    pub(super) fn evict(&self, workload: &str) {
        let gone: Vec<_> = self
            .idle
            .lock()
            .extract_if(|key, _| &*key.workload == workload)
            .flat_map(|(_, list)| list)
            .collect();
        self.close(gone.into_iter().map(|idle| idle.connection));
    }

    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.idle.lock());
        self.close(gone.into_values().flatten().map(|idle| idle.connection));
    }

    fn close(&self, gone: impl IntoIterator<Item = Box<Http1Connection>>) {
        let mut closing = self.closing.lock();
        closing.extend(gone.into_iter().filter_map(|connection| connection.close()));
        closing.retain_mut(|closing| !closing.is_over());
        let excess = closing.len().saturating_sub(MAX_CLOSING);
        closing.drain(..excess);
    }

    /// Whether no connection is left.
    pub(super) fn is_empty(&self) -> bool {
        self.close([]);
        self.idle.lock().is_empty() && self.closing.lock().is_empty()
    }
}
