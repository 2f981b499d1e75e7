//! The data path: from the accepted connection on.

mod authorize;
mod baggage;
mod connect;
mod denials;
mod inbound;
mod outbound;
mod plaintext;
mod refuse;
mod strangers;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_hbone::{HboneConfig, HbonePool};
use ambit_mesh::Skew;
use ambit_runtime::{AcceptLoop, Share, Shares, prepare_socket};
use ambit_tls::CertificateManager;
use ambit_wire::names::{PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tracing::Instrument;

#[cfg(feature = "testing")]
pub(crate) use baggage::headers as baggage_of;

use crate::limits::Limits;
use crate::observe::{Direction, Metrics, Refusal};
use crate::pod::{Asker, Pod};
use crate::sockets::StoreLimits;
use crate::state::MeshState;
pub(crate) use denials::Denials;
use refuse::Arrival;
pub(crate) use strangers::Strangers;

/// Gives the original destination of a redirected connection.
pub type OriginalDestination = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// Descriptors of one proxied connection.
const DESCRIPTORS: usize = 2;

/// State that all connections share.
pub(crate) struct Proxy {
    pub(crate) state: Arc<MeshState>,
    pub(crate) certificates: CertificateManager,
    pub(crate) pool: HbonePool,
    pub(crate) hbone: HboneConfig,
    pub(crate) limits: Limits,
    /// By pod.
    pub(crate) descriptors: Shares<Arc<str>>,
    /// TLS handshakes with unauthenticated peers, by address.
    pub(crate) handshakes: Shares<IpAddr>,
    /// For the sockets of pods.
    pub(crate) stores: StoreLimits,
    /// Updates that this node waits for.
    pub(crate) skew: Skew,
    pub(crate) denials: Denials,
    pub(crate) strangers: Strangers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: bool,
    pub(crate) original_destination: OriginalDestination,
    /// The threads for connections.
    pub(crate) data: Handle,
}

impl Proxy {
    /// Accepts until the future is dropped. Connections belong to the pod and end with it.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, pod: Arc<Pod>, direction: Direction) {
        // It can fail because another process shut the listener down; the agent repairs that.
        let mut accepting = AcceptLoop::new(direction.name());
        loop {
            let (tcp, peer) = accepting.next(|| listener.accept()).await;
            self.admit(tcp, canonical(peer), &pod, direction);
        }
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr, pod: &Arc<Pod>, direction: Direction) {
        let asker = match direction {
            Direction::Outbound => Asker::Pod,
            Direction::Inbound | Direction::InboundPlaintext => Asker::Address(peer.ip()),
        };
        let refusal = match (pod.places.take(&asker), pod.descriptors.take_many(DESCRIPTORS)) {
            (Some(place), Some(descriptors)) => {
                let (proxy, pod) = (Arc::clone(self), Arc::clone(pod));
                let tasks = pod.connections.clone();
                let span = tracing::debug_span!("connection", %peer);
                tasks.spawn(
                    async move {
                        let _descriptors = descriptors;
                        let kill = pod.kill.clone();
                        kill.run_until_cancelled(proxy.serve(tcp, peer, pod, direction, place))
                            .await;
                    }
                    .instrument(span),
                );
                return;
            }
            (None, _) => Refusal::PodLimit,
            (_, None) => Refusal::Descriptors,
        };
        let local = tcp.local_addr().ok().map(canonical);
        reset(tcp);
        Arrival {
            proxy: self,
            pod,
            direction,
            peer,
            local,
            identity: None,
        }
        .refused(refusal, None);
    }

    async fn serve(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        pod: Arc<Pod>,
        direction: Direction,
        place: Share<Asker>,
    ) {
        if let Err(error) = prepare_socket(&tcp) {
            tracing::debug!(%error, "the connection ended at once");
            return;
        }
        match direction {
            Direction::Outbound => outbound::serve(&self, &pod, tcp, peer).await,
            Direction::Inbound => inbound::serve(self, pod, tcp, peer, place).await,
            Direction::InboundPlaintext => plaintext::serve(&self, &pod, tcp, peer).await,
        }
    }
}

/// Closes the connection so that the peer gets a reset.
fn reset(tcp: TcpStream) {
    // The connection may be gone already.
    let _ = tcp.set_zero_linger();
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Ports that are the proxy's in every captured pod.
fn is_own_port(port: u16) -> bool {
    matches!(port, PORT_OUTBOUND | PORT_INBOUND | PORT_HBONE)
}

/// The original destination. Nothing rewrites it, so it is the local address of the accepted socket.
pub(crate) fn original_destination(tcp: &TcpStream) -> io::Result<SocketAddr> {
    tcp.local_addr().map(canonical)
}
