//! HBONE from clients' ztunnels.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectRequest, HboneHandler, RequestRefusal, serve_hbone};
use ambit_identity::SpiffeId;
use ambit_runtime::{Given, Share, log_permit, prepare_socket};
use ambit_tls::accept_peer;
use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tracing::Instrument;

use crate::account::Account;
use crate::admission::{CONNECTION, HBONE_CONNECTION};
use crate::downstream::{ClientConnection, Served, serve as serve_client};
use crate::http::headers::{OVERLOADED, REASON};
use crate::observe::Refusal;
use crate::proxy::{CONFIGURATION_WAIT, Proxy};
use crate::shards::Proxies;

/// Time for the TLS handshake of a client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Proxies {
    /// Gives a connection to a worker, if there is room for its handshake.
    pub(crate) fn admit(&self, tcp: TcpStream, peer: SocketAddr) {
        let peer = canonical(peer);
        let Some(handshake) = self.admission.handshakes.take(&peer.ip()) else {
            self.observer.refused(Refusal::Overloaded);
            // The peer gets a reset; the connection may be closed already.
            let _ = tcp.set_zero_linger();
            return;
        };
        let span = tracing::debug_span!("connection", %peer);
        let given = self.shards.give(tcp, |proxy, given| {
            let (tasks, proxy) = (proxy.connections.clone(), Arc::clone(proxy));
            let task = async move {
                let serving = serve(Arc::clone(&proxy), given, peer, handshake);
                proxy.until_killed(serving).await;
            };
            tasks.track_future(task.instrument(span))
        });
        if let Err(error) = given {
            ended_at_once(&error);
        }
    }
}

fn ended_at_once(error: &std::io::Error) {
    tracing::debug!(%error, "the connection ended at once");
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn serve(proxy: Arc<Proxy>, given: Given, peer: SocketAddr, place: Share<IpAddr>) {
    let taken = given.take().and_then(|tcp| prepare_socket(&tcp).map(|()| tcp));
    let tcp = match taken {
        Ok(tcp) => tcp,
        Err(error) => return ended_at_once(&error),
    };
    let (tls, identity) = match accept_peer(tcp, &proxy.lease, HANDSHAKE_TIMEOUT).await {
        Ok(authenticated) => authenticated,
        Err(error) => {
            proxy.observer.refused(Refusal::Tls);
            if log_permit(&peer.ip().to_string(), "tls") {
                tracing::warn!(src.addr = %peer, %error, "connection refused: TLS failed");
            }
            return;
        }
    };
    let account = Account::new(
        proxy.admission.bytes.holder(&identity),
        proxy.observer.overloads(),
    );
    let places = (
        proxy.admission.connections.take(&identity),
        account.admit(HBONE_CONNECTION),
    );
    let (Some(_connection), Some(_held)) = places else {
        proxy.observer.refused(Refusal::Overloaded);
        if log_permit(&identity.to_string(), "connections") {
            tracing::warn!(src.addr = %peer, src.identity = %identity, "connection refused: the waypoint is overloaded");
        }
        return;
    };
    drop(place);
    let (config, drain) = (proxy.hbone.clone(), proxy.drain.clone());
    let handler = Arc::new(Handler {
        proxy,
        peer,
        identity,
        account,
    });
    if let Err(error) = serve_hbone(tls, &config, drain, handler).await {
        tracing::debug!(%error, "HBONE connection failed");
    }
}

/// Admission refused: the waypoint's limit is reached, or the client's share of it.
struct Overloaded;

/// Serves the CONNECT requests of one HBONE connection.
struct Handler {
    proxy: Arc<Proxy>,
    peer: SocketAddr,
    identity: SpiffeId,
    account: Account,
}

impl HboneHandler for Handler {
    async fn connect(self: Arc<Self>, mut request: ConnectRequest) {
        let proxy = &self.proxy;
        let destination = canonical(request.authority());
        let found = tokio::select! {
            found = self.find(destination) => found,
            () = request.gone() => return,
        };
        let served = match found {
            Ok(Some(served)) => served,
            Ok(None) => {
                request.refuse(StatusCode::NOT_FOUND);
                let reason = format!("this waypoint does not serve {destination}");
                return self.log(Refusal::Authority, &reason);
            }
            Err(Overloaded) => return self.refuse_overloaded(request),
        };
        let places = (
            proxy.admission.streams.take(&self.identity),
            self.account.admit(CONNECTION),
        );
        let (Some(_place), Some(_held)) = places else {
            return self.refuse_overloaded(request);
        };
        let baggage = request
            .headers()
            .get("baggage")
            .map(|value| value.as_bytes().to_owned());
        let source = proxy
            .observer
            .source(self.identity.clone(), self.peer, baggage.as_deref());
        match request.accept() {
            Ok(stream) => {
                let _open = proxy.observer.load().connection();
                let client = ClientConnection::new(proxy, source, served, self.account.clone());
                let io = stream.into_io();
                io.payer().set(Some(self.account.payer()));
                serve_client(client, io).await;
            }
            Err(error) => tracing::debug!(%error, "the client's stream ended at once"),
        }
    }

    fn refused(&self, refusal: &RequestRefusal) {
        self.log(Refusal::Request, &refusal.to_string());
    }
}

impl Handler {
    /// The destination at the address, as soon as the control plane has sent it: a ztunnel may have received a new
    /// binding first.
    async fn find(&self, destination: SocketAddr) -> Result<Option<Served>, Overloaded> {
        let mut changes = self.proxy.state.served();
        let found = self.look(destination);
        if found.is_some() {
            return Ok(found);
        }
        let waiting = self.proxy.admission.waiting.take(&self.identity);
        let _waiting = waiting.ok_or(Overloaded)?;
        let look = async {
            while changes.changed().await.is_ok() {
                let found = self.look(destination);
                if found.is_some() {
                    return found;
                }
            }
            None
        };
        tokio::select! {
            found = look => Ok(found),
            () = self.proxy.drain.cancelled() => Ok(None),
            () = tokio::time::sleep(CONFIGURATION_WAIT) => Ok(None),
        }
    }

    fn refuse_overloaded(&self, request: ConnectRequest) {
        let why = HeaderValue::from_static(OVERLOADED);
        request.refuse_with(StatusCode::SERVICE_UNAVAILABLE, REASON, why);
        self.log(Refusal::Overloaded, OVERLOADED);
    }

    fn look(&self, destination: SocketAddr) -> Option<Served> {
        let state = &self.proxy.state;
        if let Some((entry, via)) = state.service_at(destination) {
            let port = destination.port();
            let config = entry.config()?;
            return config
                .protocol(port)
                .map(|_| Served::Service { entry, port, via });
        }
        state
            .workload_at(destination.ip(), destination.port())
            .map(|_| Served::Workload(destination))
    }

    fn log(&self, refusal: Refusal, reason: &str) {
        self.proxy.observer.refused(refusal);
        if log_permit(&self.identity.to_string(), refusal.reason()) {
            tracing::warn!(src.addr = %self.peer, src.identity = %self.identity, reason, "CONNECT refused");
        }
    }
}
