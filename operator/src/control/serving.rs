use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

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
use tracing::{debug, error, info, warn};

use super::ca::CertificateAuthority;
use super::server::ControlPlaneError;

/// Serving certificates last a day.
const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);
const RENEW_RETRY: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have not finished their handshake; more wait in the listen queue.
const HANDSHAKES_AT_ONCE: usize = 512;
/// Of these from one address: one that opens connections and says nothing does not keep the others out.
const HANDSHAKES_OF_ONE: usize = 32;
const KEEPALIVE: Duration = Duration::from_secs(30);
/// After `accept` fails, which is mostly for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

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
        ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
        shutdown: CancellationToken,
    ) {
        let mut handshakes = JoinSet::new();
        let peers = Peers::default();
        let clock = WallClock::default();
        let mut renewal = clock.now() + RENEW_AFTER;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = ready.closed() => return,
                () = clock.reached(renewal) => renewal = clock.now() + self.renew(),
                Some(_) = handshakes.join_next() => {}
                accepted = self.listener.accept(), if handshakes.len() < HANDSHAKES_AT_ONCE => match accepted {
                    Ok((tcp, peer)) => {
                        let Some(place) = peers.admit(peer.ip().to_canonical()) else {
                            debug!(%peer, most = HANDSHAKES_OF_ONE, "closed: too many of its connections are in their handshake");
                            continue;
                        };
                        let (acceptor, ready) = (self.acceptor.clone(), ready.clone());
                        handshakes.spawn(async move {
                            let shaken = handshake(&acceptor, tcp).await;
                            drop(place);
                            match shaken {
                                // Fails only when the server is going.
                                Ok(tls) => drop(ready.send(Ok(tls)).await),
                                Err(error) => debug!(%peer, %error, "TLS handshake failed"),
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
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

/// How many connections of each address are in their handshake.
#[derive(Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// A place for one more of `peer`, unless it has as many as it may.
    fn admit(&self, peer: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= HANDSHAKES_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Place {
            counts: Arc::clone(&self.0),
            peer,
        })
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Place {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_the_places_of_all() {
        let peers = Peers::default();
        let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let mut places: Vec<_> = (0..HANDSHAKES_OF_ONE)
            .map(|_| peers.admit(greedy).unwrap())
            .collect();
        assert!(peers.admit(greedy).is_none());
        drop(peers.admit(other).unwrap());
        // A place that is given back may be taken again, and nothing is kept of who has gone.
        places.pop();
        places.push(peers.admit(greedy).unwrap());
        assert!(peers.admit(greedy).is_none());
        drop(places);
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
