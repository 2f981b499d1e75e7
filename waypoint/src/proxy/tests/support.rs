//! A waypoint, clients in front of it and applications behind it.

mod application;
mod ztunnel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, HboneIo, HbonePool, OpenError, PoolKey};
use ambit_identity::SpiffeId;
use ambit_runtime::{Shards, Workers};
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, IdentityLease, ManagerConfig};
use ambit_wire::waypoint as wire;
use ambit_wire::workload as wire_workload;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::http::HttpTimeouts;
use crate::observe::{Gauges, Observer};
use crate::proxy::{Common, Proxy};
use crate::retries::RetryBudgets;
use crate::shards::Proxies;
use crate::state::{AppProtocol, State};

pub(super) use application::{Application, echo, raw_application, raw_application_at, read_head};
pub(super) use ztunnel::Ztunnel;

pub(super) const WAIT: Duration = Duration::from_secs(30);
pub(super) const VIP: &str = "10.96.0.1";
pub(super) const CLIENT: &str = "cluster.local/ns/shop/sa/client";

pub(super) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", service_account).unwrap()
}

/// Address of its own for each server that must listen on 15008.
pub(super) fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, a, b] = process.to_be_bytes();
    IpAddr::from([127, 64 + (a & 63), b, 1 + (next % 254) as u8])
}

/// What the waypoint serves: one service, `shop/server`.
pub(super) struct Mesh {
    ca: Arc<TestCa>,
    pub(super) state: Arc<State>,
    pub(super) proxies: Arc<Proxies>,
    /// The first worker's.
    pub(super) proxy: Arc<Proxy>,
    pub(super) observer: Arc<Observer>,
    pub(super) address: SocketAddr,
    pub(super) drain: CancellationToken,
    pub(super) service: wire::Service,
    pool: HbonePool,
    lease: IdentityLease,
    /// Those of its own.
    pub(super) workers: Option<Workers>,
}

impl Mesh {
    pub(super) async fn new() -> Self {
        Self::with(HttpTimeouts::default()).await
    }

    pub(super) async fn with(timeouts: HttpTimeouts) -> Self {
        Self::taking_on(timeouts, Admission::of_process()).await
    }

    pub(super) async fn taking_on(timeouts: HttpTimeouts, admission: Admission) -> Self {
        // With one thread all is done in an order. With several the waypoint has its own, as in production.
        let workers = match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => None,
            _ => Some(NonZero::<usize>::MIN),
        };
        Self::on(workers, timeouts, admission).await
    }

    /// With two workers of the waypoint's own, named `shard-0` and `shard-1`.
    pub(super) async fn sharded(timeouts: HttpTimeouts, admission: Admission) -> Self {
        Self::on(NonZero::new(2), timeouts, admission).await
    }

    async fn on(workers: Option<NonZero<usize>>, timeouts: HttpTimeouts, admission: Admission) -> Self {
        let workers = workers.map(|count| Workers::start_many("shard", count).unwrap());
        let shards = workers.as_ref().map_or_else(Shards::current, Workers::shards);
        let ca = Arc::new(TestCa::new().unwrap());
        let (state, observer) = (Arc::new(State::new()), Observer::new().unwrap());
        admission.windows.register(observer.registry()).unwrap();
        state
            .apply_settings(ambit_wire::waypoint::Settings {
                access_log: true,
                ..Default::default()
            })
            .unwrap();
        let drain = CancellationToken::new();
        let common = Common {
            state: Arc::clone(&state),
            observer: Arc::clone(&observer),
            lease: manager(&ca).lease(id("waypoint")),
            timeouts,
            admission: Arc::new(admission),
            retries: RetryBudgets::default(),
            drain: drain.clone(),
        };
        let proxies = Arc::new(Proxies::new(&shards, &common));
        let proxy = Arc::clone(proxies.iter().next().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&proxies);
        tokio::spawn(async move { accepting.accept(listener).await });
        let service = wire::Service {
            namespace: "shop".into(),
            name: "server".into(),
            hostname: "server.shop.svc.cluster.local".into(),
            addresses: vec![address_bytes(VIP.parse().unwrap())],
            ports: [
                (80, AppProtocol::Unknown),
                (8080, AppProtocol::Http2),
                (9000, AppProtocol::Tcp),
                (81, AppProtocol::Http11),
            ]
            .map(|(port, protocol)| wire::ServicePort {
                port,
                protocol: protocol.into(),
                ..Default::default()
            })
            .into(),
            ..wire::Service::default()
        };
        let mesh = Self {
            pool: HbonePool::new(HboneConfig::default()),
            lease: manager(&ca).lease(id("client")),
            ca,
            state,
            proxies,
            proxy,
            observer,
            address,
            drain,
            service,
            workers,
        };
        mesh.bind();
        mesh
    }

    /// Changes the service.
    pub(super) fn apply_service(&self, change: impl FnOnce(&mut wire::Service)) {
        let mut service = self.service.clone();
        change(&mut service);
        let name = format!("{}/{}", service.namespace, service.hostname);
        assert!(self.state.apply_services(&[], [(name, service)]).is_empty());
    }

    /// The waypoint serves the service, without policies.
    pub(super) fn bind(&self) {
        self.apply_service(|_| {});
    }

    /// The waypoint no longer serves the service.
    pub(super) fn unbind(&self) {
        let name = format!("{}/{}", self.service.namespace, self.service.hostname);
        self.state.apply_services(&[name], []);
    }

    /// Puts a policy in force for the service; each part that it has.
    pub(super) fn policy(&self, policy: wire::Policy) {
        let name = format!("{}/{}", policy.namespace, policy.name);
        let (authorization, timeout, retry) = (
            !policy.authorization.is_empty(),
            policy.timeout.is_some(),
            policy.retry.is_some(),
        );
        self.state.apply_policies(&[], vec![policy.try_into().unwrap()]);
        self.apply_service(|service| {
            service.authorization.extend(authorization.then(|| name.clone()));
            if timeout {
                service.timeout = name.clone();
            }
            if retry {
                service.retry = name;
            }
        });
    }

    /// An endpoint in plaintext.
    pub(super) fn endpoint(&self, name: &str, application: SocketAddr) {
        self.workload(name, application, |_| {});
    }

    /// An endpoint behind HBONE: its ztunnel is at 15008 of the application's address.
    pub(super) async fn hbone_endpoint(&self, name: &str, application: SocketAddr) -> Ztunnel {
        let ztunnel = Ztunnel::start(&self.ca, id(name), application.ip()).await;
        self.workload(name, application, |workload| {
            workload.set_tunnel_protocol(wire_workload::TunnelProtocol::Hbone);
        });
        ztunnel
    }

    pub(super) fn workload(
        &self,
        name: &str,
        application: SocketAddr,
        change: impl FnOnce(&mut wire_workload::Workload),
    ) {
        let ports = self.service.ports.iter().map(|port| wire_workload::Port {
            service_port: port.port,
            target_port: application.port().into(),
            ..wire_workload::Port::default()
        });
        let ports = wire_workload::PortList {
            ports: ports.collect(),
            ..Default::default()
        };
        let mut workload = wire_workload::Workload {
            uid: format!("cluster//Pod/shop/{name}"),
            name: name.into(),
            namespace: "shop".into(),
            service_account: name.into(),
            addresses: vec![address_bytes(application.ip())],
            services: BTreeMap::from([("shop/server.shop.svc.cluster.local".to_owned(), ports)]),
            ..wire_workload::Workload::default()
        };
        change(&mut workload);
        let (moved, invalid) = self
            .state
            .apply_workloads(&[], [(workload.uid.clone(), workload)]);
        assert!(invalid.is_empty(), "{invalid:?}");
        for uid in moved {
            self.proxies.evict_workload(&uid);
        }
    }

    pub(super) fn remove(&self, name: &str) {
        let (moved, _) = self
            .state
            .apply_workloads(&[format!("cluster//Pod/shop/{name}")], std::iter::empty());
        for uid in moved {
            self.proxies.evict_workload(&uid);
        }
    }

    /// A stream to a port of the service, as the client's ztunnel opens it.
    pub(super) async fn connect(&self, port: u16) -> HboneIo {
        self.open(SocketAddr::new(VIP.parse().unwrap(), port))
            .await
            .unwrap()
    }

    pub(super) async fn open(&self, to: SocketAddr) -> Result<HboneIo, OpenError> {
        self.open_from(&self.pool, to).await
    }

    /// A stream of another client, with its service account and from its address.
    pub(super) async fn open_as(
        &self,
        service_account: &str,
        from: &str,
        to: SocketAddr,
    ) -> Result<HboneIo, OpenError> {
        let lease = manager(&self.ca).lease(id(service_account));
        let pool = HbonePool::new(HboneConfig::default());
        self.open_with(&pool, &lease, from.parse().unwrap(), to).await
    }

    /// A stream over a client's own HBONE connections.
    pub(super) async fn open_from(&self, client: &HbonePool, to: SocketAddr) -> Result<HboneIo, OpenError> {
        self.open_with(client, &self.lease, [127, 0, 0, 1].into(), to)
            .await
    }

    async fn open_with(
        &self,
        client: &HbonePool,
        lease: &IdentityLease,
        from: IpAddr,
        to: SocketAddr,
    ) -> Result<HboneIo, OpenError> {
        let key = PoolKey {
            source: lease.identity().clone(),
            destination: [id("waypoint")].into(),
            address: self.address,
            workload: "waypoint".into(),
            pod: "client".into(),
        };
        let address = self.address;
        let authority = to.to_string().parse().unwrap();
        let dial = || async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let tcp = socket.connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok(tcp)
        };
        let stream = client.open(&key, lease, &authority, dial).await?;
        Ok(stream.into_io())
    }

    /// Sends `bytes` over a new connection and reads until its end.
    pub(super) async fn exchange(&self, port: u16, bytes: impl AsRef<[u8]>) -> String {
        let mut io = self.connect(port).await;
        io.write_all(bytes.as_ref()).await.unwrap();
        read_all(&mut io).await
    }

    /// An HTTP/1 client on a new connection.
    pub(super) async fn http1(&self, port: u16) -> Http1Client {
        Http1Client::over(self.connect(port).await).await
    }

    /// An HTTP/2 client on a new connection.
    pub(super) async fn http2(&self, port: u16) -> Http2Client {
        Http2Client::over(self.connect(port).await).await
    }

    /// The metric's value, of the first series whose line has all these parts; 0 where there is none.
    pub(super) fn metric(&self, parts: &[&str]) -> u64 {
        let text = self.observer.render(&Gauges::default()).unwrap();
        let line = text
            .lines()
            .find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Resolves when the metric has this value.
    pub(super) async fn counts(&self, parts: &[&str], value: u64) {
        let counted = async {
            while self.metric(parts) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, counted).await.unwrap();
    }
}

pub(super) async fn read_all(io: &mut HboneIo) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(WAIT, io.read_to_end(&mut answer))
        .await
        .unwrap();
    // A reset after the answer is an end too.
    drop(read);
    String::from_utf8_lossy(&answer).into_owned()
}

fn manager(ca: &Arc<TestCa>) -> CertificateManager {
    CertificateManager::new(Arc::clone(ca) as _, ManagerConfig::default())
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

pub(super) type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(Into::into).boxed()
}

/// A body that is sent piece by piece.
pub(super) fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(receiver).map(Ok));
    (sender, BodyExt::boxed(body))
}

pub(super) struct Http1Client(hyper::client::conn::http1::SendRequest<Body>);

impl Http1Client {
    pub(super) async fn over(io: HboneIo) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        Self(sender)
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.try_send(request).await.unwrap()
    }

    pub(super) async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        tokio::time::timeout(WAIT, async {
            self.0.ready().await?;
            self.0.send_request(request).await
        })
        .await
        .unwrap()
    }

    pub(super) async fn get(&mut self, path: &str) -> (StatusCode, String, String) {
        let request = Request::get(path)
            .header("host", "server")
            .body(full(""))
            .unwrap();
        whole(self.send(request).await).await
    }

    /// Resolves when the connection is closed.
    pub(super) async fn closed(&mut self) {
        while tokio::time::timeout(WAIT, self.0.ready()).await.unwrap().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[derive(Clone)]
pub(super) struct Http2Client(pub(super) hyper::client::conn::http2::SendRequest<Body>);

impl Http2Client {
    pub(super) async fn over(io: HboneIo) -> Self {
        let io = TokioIo::new(io);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(super) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.try_send(request).await.unwrap()
    }

    pub(super) async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        tokio::time::timeout(WAIT, self.0.send_request(request))
            .await
            .unwrap()
    }
}

/// Status, `x-ambit-reason`, and body.
pub(super) async fn whole(response: Response<Incoming>) -> (StatusCode, String, String) {
    let reason = response
        .headers()
        .get("x-ambit-reason")
        .map_or(String::new(), |reason| reason.to_str().unwrap().to_owned());
    let status = response.status();
    let body = tokio::time::timeout(WAIT, response.into_body().collect())
        .await
        .unwrap();
    let body = String::from_utf8_lossy(&body.unwrap().to_bytes()).into_owned();
    (status, reason, body)
}
