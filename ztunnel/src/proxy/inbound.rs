//! HBONE that arrives at a pod (15008).

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::{ConnectRequest, HboneHandler, RequestRefusal, copy_tunnel, serve_hbone};
use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_runtime::{Holder, Share};
use ambit_tls::accept_peer;
use ambit_wire::names::{HEADER_DENIED, HEADER_GUARD, guarded};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::authorize::Attempt;
use super::connect::connect_from;
use super::refuse::Arrival;
use super::{Direction, Proxy, canonical, is_own_port, reset};
use crate::observe::{Flipped, Refusal};
use crate::pod::{Asker, Pod};

const GUARD: HeaderName = HeaderName::from_static(HEADER_GUARD);

/// The connection has its `place` by its address, until it is known whose it is.
pub(super) async fn serve(
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    tcp: TcpStream,
    peer: SocketAddr,
    place: Share<Asker>,
) {
    let Ok(local) = tcp.local_addr().map(canonical) else {
        return;
    };
    let arrival = Arrival {
        proxy: &proxy,
        pod: &pod,
        direction: Direction::Inbound,
        peer,
        local: Some(local),
        identity: None,
    };
    let Some(handshaking) = proxy.handshakes.take(&peer.ip()) else {
        reset(tcp);
        return arrival.refused(Refusal::Handshakes, None);
    };
    let lease = pod.lease.load_full();
    let (tls, identity) = match accept_peer(tcp, &lease, proxy.limits.handshake_timeout).await {
        Ok(authenticated) => authenticated,
        Err(error) => return arrival.refused(Refusal::Tls, Some(&error.to_string())),
    };
    let places = pod.places.holder(&Asker::Identity(identity.clone()));
    let Some(_place) = places.take() else {
        // It is a reset, as everywhere.
        let _ = tls.get_ref().0.get_ref().set_zero_linger();
        let identity = Some(&identity);
        return Arrival { identity, ..arrival }.refused(Refusal::PodLimit, None);
    };
    drop((handshaking, place));
    let drain = pod.drain.clone();
    let config = proxy.hbone.clone();
    let handler = Arc::new(Handler {
        proxy,
        pod,
        peer,
        identity,
        places,
        local,
    });
    if let Err(error) = serve_hbone(tls, &config, drain, handler).await {
        tracing::debug!(%error, "HBONE connection failed");
    }
}

/// The guard that denies, if it is one: the way is through a waypoint.
fn guard(denial: &Decision) -> Option<HeaderValue> {
    let name = denial
        .denied_by
        .as_deref()
        .filter(|name| guarded(name).is_some())?;
    HeaderValue::from_str(name).ok()
}

/// Serves the CONNECT requests of one HBONE connection.
struct Handler {
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    peer: SocketAddr,
    identity: SpiffeId,
    /// The peer's places among the pod's.
    places: Arc<Holder<Asker>>,
    local: SocketAddr,
}

impl HboneHandler for Handler {
    async fn connect(self: Arc<Self>, mut request: ConnectRequest) {
        let destination = canonical(request.authority());
        let arrival = self.arrival();
        let begun = Instant::now();
        if destination.ip() != self.local.ip() {
            request.refuse(StatusCode::BAD_REQUEST);
            return arrival.refused(Refusal::Authority(destination), None);
        }
        if is_own_port(destination.port()) {
            request.refuse(StatusCode::BAD_REQUEST);
            return arrival.refused(Refusal::OwnPort(destination), None);
        }
        let (proxy, pod) = (&self.proxy, &self.pod);
        let accepted = match request.headers().get(HEADER_DENIED) {
            None => StatusCode::OK,
            Some(from) if self.has_denied(from, destination) => StatusCode::ACCEPTED,
            Some(_) => return request.refuse(StatusCode::PRECONDITION_FAILED),
        };
        // One descriptor more for each stream: its HBONE connection is counted already.
        let Some(_in_pod) = self.places.take() else {
            request.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return arrival.refused(Refusal::PodLimit, None);
        };
        let Some(_in_process) = pod.descriptors.take() else {
            request.refuse(StatusCode::SERVICE_UNAVAILABLE);
            return arrival.refused(Refusal::Descriptors, None);
        };
        let attempt = Attempt {
            proxy,
            pod,
            peer: self.peer,
            principal: Some(&self.identity),
            destination,
            changes: proxy.state.authorization_changed(),
        };
        let workload = tokio::select! {
            workload = attempt.workload() => workload,
            () = request.gone() => return,
        };
        let workload = match workload {
            Ok(workload) => workload,
            Err(refusal) => {
                request.refuse(StatusCode::SERVICE_UNAVAILABLE);
                return arrival.refused(refusal, None);
            }
        };
        let decision = attempt.decide(&workload);
        attempt.report_audit(&workload, &decision);
        let record = attempt.record(&workload);
        if !decision.is_allowed() {
            match guard(&decision) {
                Some(name) => request.refuse_with(StatusCode::UNAUTHORIZED, GUARD, name),
                None => request.refuse(StatusCode::UNAUTHORIZED),
            }
            return record.deny(&decision);
        }
        let left = proxy.limits.connect_timeout.saturating_sub(begun.elapsed());
        let connecting = connect_from(pod, self.peer.ip(), destination, left);
        let connected = tokio::select! {
            connected = connecting => connected,
            () = request.gone() => return record.end(Some(&"the client closed the connection before it \
                 was established")),
        };
        match connected {
            Ok(tcp) => match request.accept_with(accepted) {
                Ok(stream) => {
                    let copy = async |record: &_| copy_tunnel(tcp, stream, &Flipped(record)).await;
                    attempt.proceed(record, copy).await;
                }
                Err(error) => record.end(Some(&error)),
            },
            Err(failure) => {
                request.refuse(StatusCode::SERVICE_UNAVAILABLE);
                record.fail("connect", &failure);
            }
        }
    }

    fn refused(&self, refusal: &RequestRefusal) {
        self.arrival()
            .refused(Refusal::Request, Some(&refusal.to_string()));
    }
}

impl Handler {
    /// Whether the peer's plaintext connection `from` there was denied before a byte of it was read.
    fn has_denied(&self, from: &HeaderValue, destination: SocketAddr) -> bool {
        let from = from.to_str().ok().and_then(|from| from.parse().ok());
        from.is_some_and(|from: SocketAddr| {
            from.ip() == self.peer.ip() && self.proxy.denials.take(Instant::now(), from, destination)
        })
    }

    fn arrival(&self) -> Arrival<'_> {
        Arrival {
            proxy: &self.proxy,
            pod: &self.pod,
            direction: Direction::Inbound,
            peer: self.peer,
            local: Some(self.local),
            identity: Some(&self.identity),
        }
    }
}
