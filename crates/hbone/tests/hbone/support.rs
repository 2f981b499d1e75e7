//! A destination proxy in front of an application, and a source proxy's pool.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{
    ConnectRequest, HboneConfig, HboneHandler, HbonePool, HboneStream, Meter, OpenError, PoolKey,
    RequestRefusal, copy_tunnel, serve_hbone,
};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, IdentityLease, ManagerConfig, WorkloadCertificate, peer_identity};
use h2::client::SendRequest;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

pub(crate) const WAIT: Duration = Duration::from_secs(20);

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "test", name).unwrap()
}

pub(crate) fn manager(ca: &Arc<TestCa>) -> CertificateManager {
    CertificateManager::new(Arc::clone(ca) as _, ManagerConfig::default())
}

#[derive(Default)]
pub(crate) struct Bytes {
    pub(crate) forward: AtomicU64,
    pub(crate) backward: AtomicU64,
}

impl Meter for Bytes {
    fn forward(&self, bytes: u64) {
        self.forward.fetch_add(bytes, Ordering::SeqCst);
    }
    fn backward(&self, bytes: u64) {
        self.backward.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// Behind it is a server that answers at once, and wants no more than it has heard.
pub(crate) const HASTY: &str = "127.0.0.1:1";

/// Nobody answers a CONNECT to it.
pub(crate) const MUTE: &str = "127.0.0.1:2";

/// A CONNECT to it is heard of once more, as a second peer, when its client has given it up.
pub(crate) const GIVEN_UP: &str = "127.0.0.1:3";

/// Connects every CONNECT to its authority, as the peer it is from.
struct Gateway {
    peer: SpiffeId,
    peers: mpsc::UnboundedSender<SpiffeId>,
    refusals: mpsc::UnboundedSender<RequestRefusal>,
    bytes: Arc<Bytes>,
}

impl HboneHandler for Gateway {
    async fn connect(self: Arc<Self>, mut request: ConnectRequest) {
        self.peers.send(self.peer.clone()).ok();
        if request.authority().to_string() == MUTE {
            return std::future::pending().await;
        }
        if request.authority().to_string() == GIVEN_UP {
            request.gone().await;
            self.peers.send(self.peer.clone()).ok();
            return;
        }
        if request.authority().to_string() == HASTY {
            let mut io = request.accept().unwrap().into_io();
            io.write_all(b"too much").await.unwrap();
            return io.shutdown().await.unwrap();
        }
        match TcpStream::connect(request.authority()).await {
            Ok(tcp) => {
                tcp.set_nodelay(true).unwrap();
                let stream = request.accept().unwrap();
                copy_tunnel(tcp, stream, &*self.bytes).await.ok();
            }
            Err(_) => request.refuse(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    fn refused(&self, refusal: &RequestRefusal) {
        self.refusals.send(refusal.clone()).ok();
    }
}

/// An HBONE server of one identity.
pub(crate) struct Destination {
    pub(crate) address: SocketAddr,
    pub(crate) identity: SpiffeId,
    /// All that were ever made.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Those that have ended.
    pub(crate) ended: Arc<AtomicUsize>,
    /// Of all streams; forward is what applications said.
    pub(crate) bytes: Arc<Bytes>,
    pub(crate) peers: mpsc::UnboundedReceiver<SpiffeId>,
    pub(crate) refusals: mpsc::UnboundedReceiver<RequestRefusal>,
    pub(crate) drain: CancellationToken,
    pub(crate) kill: CancellationToken,
}

impl Destination {
    pub(crate) async fn start(ca: &Arc<TestCa>, identity: SpiffeId) -> Self {
        Self::with(ca, identity, HboneConfig::default()).await
    }

    pub(crate) async fn with(ca: &Arc<TestCa>, identity: SpiffeId, config: HboneConfig) -> Self {
        let lease = manager(ca).lease(identity.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer_sender, peers) = mpsc::unbounded_channel();
        let (refusal_sender, refusals) = mpsc::unbounded_channel();
        let (connections, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        let (counter, draining, killed) = (Arc::clone(&connections), drain.clone(), kill.clone());
        let ends = Arc::clone(&ended);
        let bytes = Arc::<Bytes>::default();
        let meter = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let certificate = lease.certificate(WAIT).await.unwrap();
                let config = config.clone();
                let (peers, refusals) = (peer_sender.clone(), refusal_sender.clone());
                let (counter, draining, killed) = (Arc::clone(&counter), draining.clone(), killed.clone());
                let (ends, bytes) = (Arc::clone(&ends), Arc::clone(&meter));
                tokio::spawn(async move {
                    let Ok(tls) = TlsAcceptor::from(certificate.server_config()).accept(tcp).await else {
                        return;
                    };
                    counter.fetch_add(1, Ordering::SeqCst);
                    let peer = peer_identity(tls.get_ref().1).unwrap();
                    let handler = Arc::new(Gateway {
                        peer,
                        peers,
                        refusals,
                        bytes,
                    });
                    killed
                        .run_until_cancelled(serve_hbone(tls, &config, draining, handler))
                        .await;
                    ends.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            identity,
            connections,
            ended,
            bytes,
            peers,
            refusals,
            drain,
            kill,
        }
    }
}

pub(crate) type ForeignRequest = (
    http::Request<h2::RecvStream>,
    h2::server::SendResponse<bytes::Bytes>,
);

/// An HTTP/2 server that is not ours, for peers that behave in ways of their own.
pub(crate) async fn foreign_server(
    ca: &Arc<TestCa>,
    identity: SpiffeId,
    settings: fn(&mut h2::server::Builder),
) -> (SocketAddr, mpsc::UnboundedReceiver<ForeignRequest>) {
    let certificate = manager(ca).lease(identity).certificate(WAIT).await.unwrap();
    let (listener, address) = application().await;
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (certificate, sender) = (certificate.server_config(), sender.clone());
            tokio::spawn(async move {
                let tls = TlsAcceptor::from(certificate).accept(tcp).await.unwrap();
                let mut builder = h2::server::Builder::new();
                settings(&mut builder);
                let mut connection = builder.handshake(tls).await.unwrap();
                while let Some(Ok(request)) = connection.accept().await {
                    sender.send(request).ok();
                }
            });
        }
    });
    (address, requests)
}

/// A pool that connects as one identity.
pub(crate) struct Source {
    pub(crate) pool: HbonePool,
    pub(crate) lease: IdentityLease,
}

impl Source {
    pub(crate) fn new(ca: &Arc<TestCa>, identity: SpiffeId) -> Self {
        Self::with(ca, identity, HboneConfig::default())
    }

    pub(crate) fn with(ca: &Arc<TestCa>, identity: SpiffeId, config: HboneConfig) -> Self {
        Self {
            pool: HbonePool::new(config),
            lease: manager(ca).lease(identity),
        }
    }

    pub(crate) fn key(&self, to: SocketAddr, expected: &SpiffeId, workload: &str) -> PoolKey {
        PoolKey {
            source: self.lease.identity().clone(),
            destination: [expected.clone()].into(),
            address: to,
            workload: workload.into(),
            pod: "source-pod".into(),
        }
    }

    pub(crate) async fn open(
        &self,
        to: &Destination,
        application: SocketAddr,
    ) -> Result<HboneStream, OpenError> {
        self.open_key(&self.key(to.address, &to.identity, "workload"), application)
            .await
    }

    pub(crate) async fn open_key(
        &self,
        key: &PoolKey,
        application: SocketAddr,
    ) -> Result<HboneStream, OpenError> {
        let authority = application.to_string().parse().unwrap();
        let address = key.address;
        self.pool
            .open(key, &self.lease, &authority, || async move {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(tcp)
            })
            .await
    }
}

/// TLS with a server, as whom the certificate says.
pub(crate) async fn tls(certificate: &WorkloadCertificate, server: &Destination) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::IpAddress(server.address.ip().into());
    let config = certificate.client_config([server.identity.clone()].into());
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

/// An HTTP/2 client with a good certificate that asks for whatever it likes.
pub(crate) async fn raw(ca: &Arc<TestCa>, server: &Destination) -> SendRequest<bytes::Bytes> {
    let certificate = manager(ca).lease(id("client")).certificate(WAIT).await.unwrap();
    let (sender, connection) = h2::client::handshake(tls(&certificate, server).await)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// The kind of frame that ends a connection.
pub(crate) const GOAWAY: u8 = 7;

/// The next frame's kind, stream and payload.
pub(crate) async fn frame(io: &mut (impl AsyncRead + Unpin)) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    io.read_exact(&mut payload).await.unwrap();
    (head[3], head[8], payload)
}

/// Both ends of a TCP connection.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (a.unwrap(), b.unwrap().0)
}

/// An application that waits to be connected to.
pub(crate) async fn application() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The runtime of production is multi-threaded; the other one shows other orders.
macro_rules! on_both_runtimes {
    ($($test:ident,)*) => {
        mod current_thread {
            $(#[tokio::test] async fn $test() { super::$test().await })*
        }
        mod multi_thread {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() { super::$test().await })*
        }
    };
}

pub(crate) use on_both_runtimes;
