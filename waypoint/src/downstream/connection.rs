//! One client's connection to a service, inside a CONNECT stream.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ambit_identity::SpiffeId;
use ambit_mesh::{Client, Via};
use ambit_policy::{Connection, Decision};
use ambit_runtime::{Holder, log_permit};
use http::uri::Authority;
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::Rejection;
use super::upgrade::Upgrade;
use crate::account::Account;
use crate::http::io::Watch;
use crate::http::limits;
use crate::observe::{Destination, Flag, Refusal, RequestRecord, Source};
use crate::proxy::Proxy;
use crate::retries::RetryBudget;
use crate::state::{
    AppProtocol, Backend, Endpoint, PortRoutes, RequestPolicies, RuleSet, ServiceConfig, ServiceEntry,
    Settings, Workload,
};
use crate::upstream::ConnectFailure;

/// What a client's connection is for.
pub(crate) enum Served {
    /// A service, by its virtual address.
    Service {
        entry: Arc<ServiceEntry>,
        port: u16,
        via: Via,
    },
    /// A pod, by its own address.
    Workload(SocketAddr),
}

/// The same, as it is configured now.
pub(crate) enum Target {
    Service {
        entry: Arc<ServiceEntry>,
        config: Arc<ServiceConfig>,
        port: u16,
        via: Via,
        client: Arc<Source>,
    },
    Workload {
        address: SocketAddr,
        settings: Arc<Settings>,
        workload: Arc<Workload>,
    },
    /// What a route sends a request to.
    Backend {
        backend: Arc<Backend>,
        /// `None` if it has no endpoints.
        entry: Option<Arc<ServiceEntry>>,
        port: u16,
        client: Arc<Source>,
    },
}

impl Target {
    /// The rules for requests, but for those for what a route has for them.
    pub(crate) fn rules(&self) -> &RuleSet {
        match self {
            Self::Service { config, port, .. } => &config.policies(*port).rules,
            Self::Workload { settings, .. } => &settings.workload_rules,
            Self::Backend { backend, port, .. } => backend.rules(*port),
        }
    }

    /// What policies say of requests without a route.
    pub(super) fn policies(&self) -> Option<&RequestPolicies> {
        match self {
            Self::Service { config, port, .. } => Some(config.policies(*port)),
            Self::Workload { .. } | Self::Backend { .. } => None,
        }
    }

    /// The rules for connections of clients in a namespace that are no HTTP.
    pub(super) fn connection_rules(&self, namespace: &str) -> &RuleSet {
        let routes = self.port_routes(namespace);
        routes.map_or_else(|| self.rules(), |routes| &routes.connections)
    }

    /// Of a backend that is served here: its own routes, where policies for them have rules.
    pub(super) fn own_routes(&self) -> Option<Arc<PortRoutes>> {
        let Self::Backend {
            entry: Some(entry),
            port,
            ..
        } = self
        else {
            return None;
        };
        let config = entry.config()?;
        let routes = config.routing.of(*port, "")?;
        routes.narrows().then(|| Arc::clone(routes))
    }

    /// The routes of requests for callers in a namespace, if there are any.
    pub(super) fn routes(&self, namespace: &str) -> Option<&Arc<PortRoutes>> {
        self.port_routes(namespace)
            .filter(|routes| !routes.are_of_connections())
    }

    /// The routes of connections for callers in a namespace, if there are any.
    pub(super) fn connection_routes(&self, namespace: &str) -> Option<&Arc<PortRoutes>> {
        self.port_routes(namespace)
            .filter(|routes| routes.are_of_connections())
    }

    fn port_routes(&self, namespace: &str) -> Option<&Arc<PortRoutes>> {
        match self {
            Self::Service { config, port, .. } => config.routing.of(*port, namespace),
            Self::Workload { .. } | Self::Backend { .. } => None,
        }
    }

    /// The port that clients connect to.
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Service { port, .. } | Self::Backend { port, .. } => *port,
            Self::Workload { address, .. } => address.port(),
        }
    }

    /// Where it is a service.
    pub(super) fn config(&self) -> Option<&ServiceConfig> {
        match self {
            Self::Service { config, .. } => Some(config),
            Self::Workload { .. } | Self::Backend { .. } => None,
        }
    }

    /// What the port is said to speak.
    pub(crate) fn protocol(&self) -> AppProtocol {
        match self {
            Self::Service { config, port, .. } => config.protocol(*port).unwrap_or(AppProtocol::Unknown),
            Self::Workload { .. } => AppProtocol::Unknown,
            Self::Backend { backend, port, .. } => backend.protocol(*port).unwrap_or(AppProtocol::Unknown),
        }
    }

    /// Whether its endpoints are spoken HTTP/2 to, whatever the client speaks.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.protocol(), AppProtocol::Http2 | AppProtocol::Grpc)
    }

    /// The name of what is served, for requests that name no host.
    pub(super) fn authority(&self) -> Option<Authority> {
        let name = match self {
            // The default port of `http` (RFC 9110 §4.2.1) is left out.
            Self::Service { config, port: 80, .. } => config.hostname.clone(),
            Self::Service { config, port, .. } => format!("{}:{port}", config.hostname),
            Self::Workload { address, .. } => address.to_string(),
            Self::Backend { backend, port, .. } => format!("{}:{port}", backend.hostname),
        };
        Authority::try_from(name).ok()
    }

    /// An endpoint, not one of `tried` (UIDs) where there is another.
    pub(crate) fn choose(&self, proxy: &Proxy, tried: &[Arc<str>]) -> Option<Endpoint> {
        match self {
            Self::Service {
                entry,
                port,
                via,
                client,
                ..
            } => {
                let client = Client {
                    via: *via,
                    ..client.client()
                };
                crate::state::choose(entry, *port, client, tried)
            }
            Self::Workload { address, .. } => proxy.state.workload_at(address.ip(), address.port()),
            Self::Backend {
                backend,
                entry,
                port,
                client,
            } => {
                let client = Client {
                    via: Via::ClusterIp,
                    ..client.client()
                };
                crate::state::choose_by(entry.as_deref()?, &backend.balancing, *port, client, tried)
            }
        }
    }

    /// Whether there is an endpoint that has not been `tried`, besides this one.
    pub(super) fn has_another(&self, proxy: &Proxy, endpoint: &Endpoint, tried: &[Arc<str>]) -> bool {
        let tried = [tried, &[Arc::clone(&endpoint.workload.uid)]].concat();
        self.choose(proxy, &tried)
            .is_some_and(|other| !tried.contains(&other.workload.uid))
    }

    /// Awaits a connection to an endpoint; for a short time only where there may be a try after this one (it is not the `last`), at an
    /// endpoint that has not been `tried`.
    pub(crate) async fn hasten<T>(
        &self,
        proxy: &Proxy,
        endpoint: &Endpoint,
        tried: &[Arc<str>],
        last: bool,
        connecting: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        let mut connecting = pin!(connecting);
        if last {
            return connecting.await;
        }
        let haste = proxy.timeouts.connect;
        if let Ok(result) = tokio::time::timeout(haste, &mut connecting).await {
            return result;
        }
        if self.has_another(proxy, endpoint, tried) {
            return Err(ConnectFailure::Timeout {
                to: endpoint.target,
                waited: haste,
            });
        }
        connecting.await
    }

    pub(crate) fn no_endpoint(&self) -> Rejection {
        let reason = match self {
            Self::Service { config, .. } => format!("no healthy endpoint of {config}"),
            Self::Workload { workload, .. } => format!("no healthy endpoint: {workload} no longer exists"),
            Self::Backend { backend, .. } => format!("no healthy endpoint of {backend}"),
        };
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoHealthyEndpoint, reason)
    }

    /// As records have it.
    pub(crate) fn destination(&self) -> Destination {
        match self {
            Self::Service { config, .. } => Destination::Service(Arc::clone(config)),
            Self::Workload { workload, .. } => Destination::Workload(Arc::clone(workload)),
            Self::Backend { backend, .. } => Destination::Backend(Arc::clone(backend)),
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
    /// Whose requests in flight are counted.
    pub(super) requests: Arc<Holder<SpiffeId>>,
    /// What waits for it.
    pub(crate) account: Account,
    pub(crate) served: Served,
    /// How many retries there may be of requests to the same.
    pub(super) retries: Arc<RetryBudget>,
    /// As it was at the beginning: for records of what is not served any more.
    destination: Option<Destination>,
    pub(super) http2: bool,
    since: Instant,
    /// It ends between two requests, so that other replicas get their share.
    moves: AtomicBool,
    moving: Notify,
    pub(super) watch: Arc<Watch>,
    /// Requests given up before their answer began, less those that were answered.
    abandoned: AtomicU32,
    /// One more than one of the limits.
    pub(super) calm: Notify,
    /// A request has come since the last look.
    used: AtomicBool,
    upgrade: Mutex<Option<Upgrade>>,
}

impl ClientConnection {
    pub(crate) fn new(proxy: &Arc<Proxy>, source: Arc<Source>, served: Served, account: Account) -> Self {
        let mut client = Self {
            proxy: Arc::clone(proxy),
            peer: source.address,
            identity: source.identity.clone(),
            requests: proxy.admission.requests.holder(&source.identity),
            account,
            source,
            served,
            retries: proxy.retries.of(&Arc::from("")),
            destination: None,
            http2: false,
            since: Instant::now(),
            moves: AtomicBool::new(false),
            moving: Notify::new(),
            watch: Arc::default(),
            abandoned: AtomicU32::new(0),
            calm: Notify::new(),
            used: AtomicBool::new(false),
            upgrade: Mutex::default(),
        };
        client.destination = client.target().ok().map(|target| target.destination());
        if let Some(destination) = &client.destination {
            client.retries = proxy.retries.of(destination.key());
        }
        client
    }

    /// What holds for it now.
    pub(crate) fn target(&self) -> Result<Target, Rejection> {
        let target = match &self.served {
            Served::Service { entry, port, via } => {
                let found = entry.config().map(|config| (Arc::clone(entry), config));
                found
                    .or_else(|| self.served_again())
                    .map(|(entry, config)| Target::Service {
                        entry,
                        config,
                        port: *port,
                        via: *via,
                        client: Arc::clone(&self.source),
                    })
            }
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
            let reason = "this waypoint no longer serves the destination";
            Rejection::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NoRoute, reason)
        })
    }

    /// A service that was gone for a time, and its endpoints with it, has another entry when it comes back.
    fn served_again(&self) -> Option<(Arc<ServiceEntry>, Arc<ServiceConfig>)> {
        let Some(Destination::Service(before)) = &self.destination else {
            return None;
        };
        let entry = self.proxy.state.service(&before.key)?;
        let config = entry.config()?;
        Some((entry, config))
    }

    /// What a route sends requests to; `None` if it is not configured.
    pub(super) fn backend(&self, key: &str, port: u16) -> Option<Target> {
        let (backend, entry) = self.proxy.state.backend(key)?;
        Some(Target::Backend {
            backend,
            entry,
            port,
            client: Arc::clone(&self.source),
        })
    }

    /// Whether the policies for connections let this client connect to an endpoint. Its own proxy cannot tell: there the waypoint is the
    /// client.
    pub(crate) fn decide_l4(&self, workload: &Workload, destination: SocketAddr) -> Decision {
        let connection = Connection {
            principal: Some(self.identity.principal()),
            source: self.peer.ip(),
            destination,
        };
        self.proxy.state.decide_l4(workload, &connection)
    }

    pub(super) fn record<B>(&self, target: &Target, request: &Request<B>) -> RequestRecord {
        self.record_for(target.destination(), request)
    }

    /// Of a request for what is not served any more.
    pub(super) fn record_unserved<B>(&self, request: &Request<B>) -> Option<RequestRecord> {
        let destination = self.destination.clone()?;
        Some(self.record_for(destination, request))
    }

    fn record_for<B>(&self, destination: Destination, request: &Request<B>) -> RequestRecord {
        self.used.store(true, Ordering::Relaxed);
        self.proxy.observer.request(&self.source, destination, request)
    }

    /// Counts and logs that the client broke the protocol; of many such lines of one client, only some.
    pub(super) fn broke_protocol(&self, reason: &str) {
        self.proxy.observer.refused(Refusal::BadRequest);
        if !log_permit(&self.identity.to_string(), Refusal::BadRequest.reason()) {
            return;
        }
        tracing::event!(
            target: "access",
            parent: None,
            tracing::Level::WARN,
            src.identity = %self.identity,
            src.addr = %self.peer,
            flags = Flag::BadRequest.name(),
            reason,
            "request refused: malformed HTTP"
        );
    }

    /// Requests given up before their answer began, less those that were answered.
    pub(super) fn abandoned(&self) -> u32 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether an HTTP/1 client is told to use another connection for its next request. Asked at the end of each request.
    pub(super) fn should_close(&self) -> bool {
        let moves = self.moves();
        !self.http2 && (moves || self.proxy.is_draining())
    }

    /// Whether it is to end, so that other replicas get their share.
    fn moves(&self) -> bool {
        if self.moves.load(Ordering::Relaxed) {
            return true;
        }
        let carries = || {
            let age = self.since.elapsed();
            (age >= self.proxy.timeouts.settled).then(|| self.source.carries(age))
        };
        if !self.proxy.observer.load().excess().take(carries) {
            return false;
        }
        self.moves.store(true, Ordering::Relaxed);
        self.moving.notify_one();
        self.proxy.observer.moved();
        true
    }

    /// A request of which nothing is known yet.
    pub(super) fn pending(self: &Arc<Self>) -> Pending {
        Pending(Some(Arc::clone(self)))
    }

    /// What the connection goes on as, if it has been upgraded.
    pub(super) fn take_upgrade(&self) -> Option<Upgrade> {
        self.upgrade.lock().take()
    }

    /// The connection goes on as another protocol's once the client has the answer.
    pub(super) fn upgrade(&self, upgrade: Upgrade) {
        self.watch.upgraded();
        *self.upgrade.lock() = Some(upgrade);
    }

    /// Resolves when the waypoint is to go and an idle client has had its time. The next request is answered with `connection: close`; a
    /// client that has none is not interrupted while it sends one. HTTP/2 needs no such time: GOAWAY says which requests count.
    pub(super) async fn until_drained(&self) {
        self.proxy.drain.cancelled().await;
        if !self.http2 {
            tokio::time::sleep(self.proxy.timeouts.drain_grace).await;
        }
    }

    /// Resolves when what the connection is for is no longer served here. Its next request could only be refused; on a new connection the
    /// client's ztunnel goes where the service is now.
    async fn until_dismissed(&self) {
        let mut changes = self.proxy.state.dismissed();
        while self.target().is_ok() {
            // The state that tells of changes lives as long as the connection.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when a client that has said nothing yet is not waited for any longer.
    pub(super) async fn until_unwanted(&self) {
        tokio::select! {
            () = self.until_drained() => {}
            () = self.until_dismissed() => {}
        }
    }

    /// Resolves when the connection is to take no more requests.
    pub(super) async fn until_ending(&self) {
        // An idle HTTP/1 connection is not closed: a request may be on its way.
        let moving = async {
            match self.http2 {
                true => self.moving.notified().await,
                false => std::future::pending().await,
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
            () = self.until_unwanted() => {}
            () = moving => {}
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
        if let Some(client) = self.0.take() {
            let before = client.abandoned.fetch_add(1, Ordering::Relaxed);
            if before == limits::MAX_ABANDONED || before >= limits::MAX_ABANDONED_AT_ALL {
                client.calm.notify_one();
            }
        }
    }
}
