//! One client's connection to a service, inside a CONNECT stream.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ambit_policy::{Connection, Decision};
use ambit_tunnel::SpiffeId;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::Rejection;
use super::detect::{Detected, detect};
use super::io::{ClientIo, Watch};
use super::limits;
use super::request;
use super::upgrade::Upgrade;
use crate::observe::{Destination, Flag, Refusal, RequestRecord, Source};
use crate::proxy::Proxy;
use crate::state::{AppProtocol, Endpoint, RuleSet, ServiceConfig, ServiceEntry, Settings};
use crate::upstream::TrackedExecutor;

/// What a client's connection is for.
pub(crate) enum Served {
    /// A service, by its virtual address.
    Service { entry: Arc<ServiceEntry>, port: u16 },
    /// A pod, by its own address.
    Workload(SocketAddr),
}

/// The same, as it is configured now.
pub(crate) enum Target {
    Service {
        entry: Arc<ServiceEntry>,
        config: Arc<ServiceConfig>,
        port: u16,
    },
    Workload {
        address: SocketAddr,
        settings: Arc<Settings>,
        workload: Arc<crate::state::Workload>,
    },
}

impl Target {
    pub(crate) fn rules(&self) -> &RuleSet {
        match self {
            Self::Service { config, .. } => &config.rules,
            Self::Workload { settings, .. } => &settings.workload_rules,
        }
    }

    /// Where it is a service.
    pub(super) fn config(&self) -> Option<&ServiceConfig> {
        match self {
            Self::Service { config, .. } => Some(config),
            Self::Workload { .. } => None,
        }
    }

    /// What the port is said to speak.
    pub(crate) fn protocol(&self) -> AppProtocol {
        match self {
            Self::Service { config, port, .. } => config.protocol(*port).unwrap_or(AppProtocol::Unknown),
            Self::Workload { .. } => AppProtocol::Unknown,
        }
    }

    /// Whether its endpoints are spoken HTTP/2 to, whatever the client speaks.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.protocol(), AppProtocol::Http2 | AppProtocol::Grpc)
    }

    /// An endpoint, not one of `tried` (UIDs) where there is another.
    pub(crate) fn choose(&self, proxy: &Proxy, tried: &[Arc<str>]) -> Option<Endpoint> {
        match self {
            Self::Service { entry, port, .. } => entry.choose(*port, tried),
            Self::Workload { address, .. } => proxy.state.workload_at(address.ip(), address.port()),
        }
    }

    pub(crate) fn no_endpoint(&self) -> Rejection {
        let reason = match self {
            Self::Service { config, .. } => format!("no healthy endpoint of {config}"),
            Self::Workload { workload, .. } => format!("no healthy endpoint: {workload} is gone"),
        };
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyEndpoint, reason)
    }

    /// As records have it.
    pub(crate) fn destination(&self) -> Destination {
        match self {
            Self::Service { config, .. } => Destination::Service(Arc::clone(config)),
            Self::Workload { workload, .. } => Destination::Workload(Arc::clone(workload)),
        }
    }
}

/// A client's connection.
pub(crate) struct ClientConnection {
    pub(crate) proxy: Arc<Proxy>,
    /// The other end of its HBONE connection: the client's own address, which its ztunnel keeps.
    pub(crate) peer: SocketAddr,
    pub(crate) identity: SpiffeId,
    pub(crate) source: Arc<Source>,
    pub(crate) served: Served,
    pub(super) http2: bool,
    /// From then on it ends between two requests.
    old: Option<Instant>,
    pub(super) watch: Arc<Watch>,
    /// Requests given up before their answer began, less those that were answered.
    abandoned: AtomicU32,
    /// Too many.
    calm: Notify,
    /// A request has come since the last look.
    used: AtomicBool,
    upgrade: Mutex<Option<Upgrade>>,
}

impl ClientConnection {
    pub(crate) fn new(proxy: &Arc<Proxy>, source: Arc<Source>, served: Served) -> Self {
        let age = proxy.state.settings().max_connection_age;
        Self {
            proxy: Arc::clone(proxy),
            peer: source.address,
            identity: source.identity.clone(),
            source,
            served,
            http2: false,
            // Not all at once.
            old: age.map(|age| Instant::now() + age.mul_f64(rand::random_range(0.9..1.1))),
            watch: Arc::default(),
            abandoned: AtomicU32::new(0),
            calm: Notify::new(),
            used: AtomicBool::new(false),
            upgrade: Mutex::default(),
        }
    }

    /// What holds for it now.
    pub(crate) fn target(&self) -> Result<Target, Rejection> {
        let target = match &self.served {
            Served::Service { entry, port } => entry.config().map(|config| Target::Service {
                entry: Arc::clone(entry),
                config,
                port: *port,
            }),
            Served::Workload(address) => {
                let endpoint = self.proxy.state.workload_at(address.ip(), address.port());
                endpoint.map(|endpoint| Target::Workload {
                    address: *address,
                    settings: self.proxy.state.settings(),
                    workload: Arc::clone(&endpoint.workload),
                })
            }
        };
        target.ok_or_else(|| {
            let reason = "this waypoint does not serve the destination any more";
            Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoRoute, reason)
        })
    }

    /// Whether the policies for connections let this client connect to an endpoint. Its own proxy cannot tell: there the waypoint is the
    /// client.
    pub(crate) fn decide_l4(&self, endpoint: &Endpoint) -> Decision {
        let connection = Connection {
            principal: Some(self.identity.principal()),
            source: self.peer.ip(),
            destination: endpoint.target,
        };
        self.proxy.state.decide_l4(&endpoint.workload, &connection)
    }

    pub(super) fn record<B>(&self, target: &Target, request: &Request<B>) -> RequestRecord {
        self.used.store(true, Ordering::Relaxed);
        self.proxy
            .observer
            .request(&self.source, target.destination(), request)
    }

    /// Whether an HTTP/1 client is told to use another connection for its next request.
    pub(super) fn should_close(&self) -> bool {
        !self.http2 && (self.proxy.is_draining() || self.old.is_some_and(|old| Instant::now() >= old))
    }

    /// A request of which nothing is known yet.
    pub(super) fn pending(self: &Arc<Self>) -> Pending {
        Pending(Some(Arc::clone(self)))
    }

    /// The connection goes on as another protocol's once the client has the answer.
    pub(super) fn upgrade(&self, upgrade: Upgrade) {
        self.watch.upgraded();
        *self.upgrade.lock() = Some(upgrade);
    }

    /// Resolves when the waypoint is to go and an idle client has had its time. The next request is answered with `connection: close`; a
    /// client that has none is not interrupted while it sends one. HTTP/2 needs no such time: GOAWAY says which requests count.
    async fn until_drained(&self) {
        self.proxy.drain.cancelled().await;
        if !self.http2 {
            tokio::time::sleep(self.proxy.timeouts.drain_grace).await;
        }
    }

    /// Resolves when the connection is to take no more requests.
    async fn until_ending(&self) {
        let old = async {
            match self.old.filter(|_| self.http2) {
                Some(old) => tokio::time::sleep_until(old).await,
                None => std::future::pending().await,
            }
        };
        let idle = async {
            loop {
                tokio::time::sleep(self.proxy.timeouts.idle).await;
                if !self.used.swap(false, Ordering::Relaxed) && !self.watch.is_busy() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.until_drained() => {}
            () = old => {}
            () = idle => {}
        }
    }
}

/// A request until its answer begins. Dropped before, it was given up.
pub(super) struct Pending(Option<Arc<ClientConnection>>);

impl Pending {
    pub(super) fn done(mut self) {
        if let Some(client) = self.0.take() {
            let answered = |abandoned: u32| abandoned.checked_sub(1);
            // Nothing to count down from is no error.
            let _ = client
                .abandoned
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, answered);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(client) = self.0.take()
            && client.abandoned.fetch_add(1, Ordering::Relaxed) >= limits::MAX_ABANDONED
        {
            client.calm.notify_one();
        }
    }
}

/// Serves a client's connection until it ends.
pub(crate) async fn serve<IO>(mut client: ClientConnection, mut io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(target) = client.target() else {
        return;
    };
    let mut read = BytesMut::new();
    let (declared, timeout) = match target.protocol() {
        AppProtocol::Tcp | AppProtocol::Tls => {
            drop(target);
            return crate::proxy::pass_through(client, io, Bytes::new()).await;
        }
        // Whoever says nothing for so long is idle.
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => (true, client.proxy.timeouts.idle),
        AppProtocol::Unknown => (false, client.proxy.timeouts.detect),
    };
    let detected = tokio::select! {
        detected = tokio::time::timeout(timeout, detect(&mut io, &mut read, declared)) => match detected {
            Ok(detected) => detected,
            Err(_) if declared => return,
            Err(_) => Ok(Detected::Other),
        },
        () = client.until_drained(), if declared => return,
    };
    drop(target);
    match detected {
        Ok(Detected::Http1) => serve_http1(client, io, read.freeze()).await,
        Ok(Detected::Http2) => {
            client.http2 = true;
            serve_http2(client, io, read.freeze()).await;
        }
        Ok(Detected::Other) => crate::proxy::pass_through(client, io, read.freeze()).await,
        Err(error) => tracing::debug!(%error, "the client's connection ended at once"),
    }
}

async fn serve_http1<IO>(client: ClientConnection, io: IO, prefix: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ClientIo::new(io, prefix).with_requests(Arc::clone(&client.watch), client.proxy.timeouts.head);
    let client = Arc::new(client);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| request::handle(Arc::clone(&client), request))
    };
    let mut connection = hyper::server::conn::http1::Builder::new()
        // Watched by ClientIo, which tells idle clients from slow ones.
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits::MAX_HEAD)
        .max_buf_size(limits::MAX_BUFFER)
        .writev(false)
        .serve_connection(TokioIo::new(io), service);
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            Some(()) = ending.next() => std::pin::Pin::new(&mut connection).graceful_shutdown(),
        }
    };
    drop(ending);
    let failed = result.is_err();
    report(&client, result);
    let upgrade = client.upgrade.lock().take();
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let Some(upgrade) = upgrade {
        upgrade.run(io, parts.read_buf).await;
    } else if !failed && let Err(error) = io.shutdown().await {
        // hyper leaves it open after a request for an upgrade that was not granted.
        tracing::debug!(%error, "the client's connection ended first");
    }
}

async fn serve_http2<IO>(client: ClientConnection, io: IO, prefix: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ClientIo::new(io, prefix);
    let client = Arc::new(client);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| request::handle(Arc::clone(&client), request))
    };
    let connection = hyper::server::conn::http2::Builder::new(TrackedExecutor(client.proxy.requests.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_header_list_size(limits::MAX_HEAD as u32)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(limits::MAX_ERROR_RESETS)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let mut calm = FuturesUnordered::from_iter([client.calm.notified()]);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            Some(()) = ending.next() => connection.as_mut().graceful_shutdown(),
            Some(()) = calm.next() => {
                client.proxy.observer.refused(Refusal::BadRequest);
                tracing::warn!(
                    src.identity = %client.identity,
                    src.addr = %client.peer,
                    limit = limits::MAX_ABANDONED,
                    "the client gives up requests faster than they can be answered: its connection is closed"
                );
                return;
            }
        }
    };
    report(&client, result);
}

/// Says why a connection ended, where it broke the protocol: such requests have no record.
fn report(client: &ClientConnection, result: Result<(), hyper::Error>) {
    let violation = client.watch.take_violation();
    let Err(error) = result else {
        return;
    };
    if violation.is_none() && !error.is_parse() && !error.is_timeout() && !is_protocol_error(&error) {
        tracing::debug!(%error, "the client's connection failed");
        return;
    }
    client.proxy.observer.refused(Refusal::BadRequest);
    let reason = match violation {
        Some(violation) => violation.to_string(),
        None => super::tries::brief(&error),
    };
    tracing::event!(
        target: "access",
        parent: None,
        tracing::Level::WARN,
        src.identity = %client.identity,
        src.addr = %client.peer,
        flags = Flag::BadRequest.name(),
        reason,
        "request refused: it is not HTTP as it should be"
    );
}

fn is_protocol_error(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_library()
                || (error.is_go_away() && error.reason() != Some(h2::Reason::NO_ERROR));
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::TimedOut;
        }
        source = error.source();
    }
    false
}
