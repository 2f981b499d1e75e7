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
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, error, info};

use super::ca::CertificateAuthority;
use super::connection::{Connection, Lifetimes};
use super::metrics::Metrics;
use super::peers::{Limit, Peers};
use super::refusal::Reason;
use super::server::ControlPlaneError;

/// Lifetime of serving certificates.
const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);
const RENEW_RETRY: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections before the end of their handshake; more wait in the listen queue.
const HANDSHAKES_AT_ONCE: usize = 512;
/// Connections of one address, and of all, without a call of an authenticated client: idle strangers cannot take all
/// places.
pub(super) const STRANGERS: Limit = Limit {
    of_one: 32,
    of_all: 2048,
};
/// Connections of one address, which may be that of a whole node if the network translates addresses; and of all.
pub(super) const CONNECTIONS: Limit = Limit {
    of_one: 512,
    of_all: 16_384,
};
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

    /// Serves connections with `routes` until `shutdown`; then until all have ended.
    pub(super) async fn run(
        self,
        routes: Routes,
        lifetimes: Lifetimes,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) {
        let (mut handshakes, mut open) = (JoinSet::new(), JoinSet::new());
        let (strangers, connections) = (Peers::new(STRANGERS), Peers::new(CONNECTIONS));
        let clock = WallClock::default();
        let mut renewal = clock.now() + RENEW_AFTER;
        let mut accepting = AcceptLoop::new("control plane");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = clock.reached(renewal) => renewal = clock.now() + self.renew(),
                Some(shaken) = handshakes.join_next() => {
                    if let Ok(Some((tls, connection, place))) = shaken {
                        let connection: Connection = connection;
                        open.spawn(connection.serve(tls, routes.clone(), lifetimes, shutdown.clone(), place));
                    }
                }
                Some(_) = open.join_next() => {}
                (tcp, peer) = accepting.next(|| self.listener.accept()), if handshakes.len() < HANDSHAKES_AT_ONCE => {
                    let address = peer.ip().to_canonical();
                    let places = strangers.admit(address).and_then(|stranger| Some((stranger, connections.admit(address)?)));
                    let Some((stranger, place)) = places else {
                        debug!(%peer, "connection closed: too many connections from its address, or in \
                             total");
                        metrics.refused(Reason::Limit.label());
                        continue;
                    };
                    let connection = Connection::new(peer, tcp.local_addr().ok(), stranger);
                    let acceptor = self.acceptor.clone();
                    handshakes.spawn(async move {
                        match handshake(&acceptor, tcp).await {
                            Ok(tls) => Some((tls, connection, place)),
                            Err(error) => {
                                debug!(%peer, %error, "TLS handshake failed");
                                None
                            }
                        }
                    });
                }
            }
        }
        // No connection is accepted any more; calls in progress finish.
        drop((self.listener, handshakes));
        while open.join_next().await.is_some() {}
    }

    /// Renews the certificate; returns the time of the next renewal.
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
