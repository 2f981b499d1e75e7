//! Plaintext that arrives at a pod (15006).

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::copy_tcp;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::authorize::Attempt;
use super::connect::connect_from;
use super::refuse::Arrival;
use super::{Direction, Proxy, canonical, is_own_port, reset};
use crate::observe::Refusal;
use crate::pod::Pod;

pub(super) async fn serve(proxy: &Arc<Proxy>, pod: &Arc<Pod>, tcp: TcpStream, peer: SocketAddr) {
    let local = tcp.local_addr().ok().map(canonical);
    let arrival = Arrival {
        proxy,
        pod,
        direction: Direction::InboundPlaintext,
        peer,
        local,
        identity: None,
    };
    let destination = match destination(proxy, &tcp) {
        Ok(destination) => destination,
        Err(refusal) => {
            reset(tcp);
            return arrival.refused(refusal, None);
        }
    };
    let begun = Instant::now();
    let _peer = pod.plaintext_peer(peer, destination.port());
    let attempt = Attempt {
        proxy,
        pod,
        peer,
        principal: None,
        destination,
        changes: proxy.state.authorization_changed(),
    };
    let workload = match attempt.workload().await {
        Ok(workload) => workload,
        Err(refusal) => {
            reset(tcp);
            return arrival.refused(refusal, None);
        }
    };
    let decision = attempt.decide(&workload);
    attempt.report_audit(&workload, &decision);
    let record = attempt.record(&workload);
    if !decision.is_allowed() {
        proxy.denials.remember(Instant::now(), peer, destination);
        reset(tcp);
        return record.deny(&decision);
    }
    // From here on the client's bytes are read.
    proxy.denials.withdraw(peer, destination);
    let left = proxy.limits.connect_timeout.saturating_sub(begun.elapsed());
    match connect_from(pod, peer.ip(), destination, left).await {
        Ok(upstream) => {
            let copy = async |record: &_| copy_tcp(tcp, upstream, &pod.memory, record).await;
            attempt.proceed(record, copy).await
        }
        Err(failure) => {
            reset(tcp);
            record.fail("connect", &failure);
        }
    }
}

fn destination(proxy: &Proxy, tcp: &TcpStream) -> Result<SocketAddr, Refusal> {
    let original = (proxy.original_destination)(tcp).map_err(|_| Refusal::NoOriginalDestination)?;
    if is_own_port(original.port()) {
        return Err(Refusal::OwnPort(original));
    }
    Ok(original)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::testing::{APPLICATION, pod, proxy, server};

    /// For instance: policy changed, and the client uses its port again.
    #[tokio::test]
    async fn accepted_connection_is_not_a_denial() {
        let mut proxy = proxy(false);
        Arc::get_mut(&mut proxy).unwrap().original_destination = Arc::new(|_| Ok(APPLICATION));
        proxy.state.apply_addresses(&[], [server()]);
        let pod = pod(&proxy);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let now = Instant::now();
        proxy.denials.remember(now, peer, APPLICATION);
        serve(&proxy, &pod, tcp, peer).await;
        assert!(!proxy.denials.take(now, peer, APPLICATION));
    }
}
