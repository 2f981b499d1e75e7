use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ambit_runtime::AcceptLoop;
use ambit_tls::WallClock;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::ca::CertificateAuthority;
use super::connection::Connection;
use super::metrics::Metrics;
use super::peers::Peers;
use super::refusal::Reason;
use super::server::ControlPlaneError;

/// Serving certificates last a day.
const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);
const RENEW_RETRY: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have not finished their handshake; more wait in the listen queue.
const HANDSHAKES_AT_ONCE: usize = 512;
/// Of these from one address: one that opens connections and says nothing does not keep the others out.
const HANDSHAKES_OF_ONE: usize = 32;
/// Connections of one address, which may be a whole node's where the network translates addresses.
pub(super) const CONNECTIONS_OF_ONE: usize = 512;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Accepts TLS connections with a certificate of the mesh's own authority, renewed at half-life.
pub(super) struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    certificate: Arc<Current>,
    authority: Arc<CertificateAuthority>,
    names: Vec<String>,
}

impl TlsListener {
    pub(super) fn new(
        listener: TcpListener,
        authority: Arc<CertificateAuthority>,
        names: Vec<String>,
    ) -> Result<Self, ControlPlaneError> {
        let certificate = Arc::new(Current(RwLock::new(certified_key(&authority, &names)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as _);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
            authority,
            names,
        })
    }

    /// Sends connections that have finished their handshake to `ready`, until `shutdown` or until nobody takes them.
    pub(super) async fn run(
        self,
        ready: mpsc::Sender<io::Result<Connection>>,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) {
        let mut handshakes = JoinSet::new();
        let peers = Peers::new(HANDSHAKES_OF_ONE);
        let connections = Peers::new(CONNECTIONS_OF_ONE);
        let clock = WallClock::default();
        let mut renewal = clock.now() + RENEW_AFTER;
        let mut accepting = AcceptLoop::new("control plane");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = ready.closed() => return,
                () = clock.reached(renewal) => renewal = clock.now() + self.renew(),
                Some(_) = handshakes.join_next() => {}
                (tcp, peer) = accepting.next(|| self.listener.accept()), if handshakes.len() < HANDSHAKES_AT_ONCE => {
                    let Some(place) = peers.admit(peer.ip().to_canonical()) else {
                        debug!(%peer, most = HANDSHAKES_OF_ONE, "closed: too many of its connections are in their handshake");
                        continue;
                    };
                    let Some(held) = connections.admit(peer.ip().to_canonical()) else {
                        debug!(%peer, most = CONNECTIONS_OF_ONE, "closed: its address has too many connections");
                        metrics.refused(Reason::Limit.label());
                        continue;
                    };
                    let (acceptor, ready) = (self.acceptor.clone(), ready.clone());
                    handshakes.spawn(async move {
                        let shaken = handshake(&acceptor, tcp).await;
                        drop(place);
                        match shaken {
                            // Fails only when the server is going.
                            Ok(tls) => drop(ready.send(Ok(Connection { tls, _place: held })).await),
                            Err(error) => debug!(%peer, %error, "TLS handshake failed"),
                        }
                    });
                }
            }
        }
    }

    /// Renews the certificate; when to do so again.
    fn renew(&self) -> Duration {
        match certified_key(&self.authority, &self.names) {
            Ok(key) => {
                *self.certificate.0.write().unwrap_or_else(PoisonError::into_inner) = key;
                info!(names = ?self.names, "serving certificate renewed");
                RENEW_AFTER
            }
            Err(error) => {
                error!(%error, retry_in = ?RENEW_RETRY, "serving certificate not renewed");
                RENEW_RETRY
            }
        }
    }
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    timeout(HANDSHAKE, acceptor.accept(tcp)).await?
}

fn certified_key(
    authority: &CertificateAuthority,
    names: &[String],
) -> Result<Arc<CertifiedKey>, ControlPlaneError> {
    let serving = authority.serving_certificate(names)?;
    let key = CertifiedKey::from_der(serving.chain, serving.key, &aws_lc_rs::default_provider())?;
    Ok(Arc::new(key))
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}
