//! Plaintext that the destination's ztunnel has denied, as its pod takes identities only and this node has not heard of
//! it.
//!
//! The denial comes before a byte is read, but looks like a reset by an application that may have read all. So the
//! destination's ztunnel is asked over HBONE: it takes this CONNECT only if it has denied that very connection. Then
//! all that the client has said is said again.

use std::borrow::Borrow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_hbone::{CopyError, HboneStream, copy_tcp, copy_tcp_unless_refused, copy_tunnel_after};
use ambit_mesh::{Protocol, Workload};
use ambit_tls::IdentityLease;
use ambit_wire::names::{HEADER_DENIED, PORT_HBONE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::reach::{End, tunnel};
use super::{finish, record};
use crate::observe::Record;
use crate::pod::Pod;
use crate::proxy::connect::connect;
use crate::proxy::{Proxy, reset};
use crate::sockets::ReusableStream;
use crate::state::Route;

/// A connection to a destination that is not known to take HBONE.
pub(super) struct Plaintext<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) pod: &'a Arc<Pod>,
    pub(super) lease: &'a IdentityLease,
    pub(super) peer: SocketAddr,
    /// Where the client wanted to connect to.
    pub(super) destination: SocketAddr,
    pub(super) route: &'a Route,
}

impl Plaintext<'_> {
    /// Copies between the client and the destination, or the destination reached anew. `first` is of the connection
    /// that there is.
    pub(super) async fn serve(&self, tcp: TcpStream, upstream: ReusableStream, first: Record) {
        let memory = &self.pod.memory;
        let from = Borrow::<TcpStream>::borrow(&upstream).local_addr();
        let (Ok(from), true) = (from, self.may_have_joined()) else {
            let result = copy_tcp(tcp, upstream, memory, &first).await;
            return finish(first, result);
        };
        // The destination's ztunnel may take as long to decide.
        let keep = self.proxy.limits.connect_timeout;
        let refused = match copy_tcp_unless_refused(tcp, upstream, memory, keep, &first).await {
            Ok(Some(refused)) => refused,
            result => return finish(first, result.map(drop)),
        };
        let Some((route, stream)) = self.reopen(from).await else {
            reset(refused.tcp);
            return first.end(Some(&CopyError::OtherTcp(refused.error)));
        };
        first.end(Some(
            &"the destination accepts identities only: connected again over HBONE",
        ));
        let route = Some(&route);
        let second = record(
            self.proxy,
            self.pod,
            self.lease,
            self.peer,
            self.destination,
            route,
            None,
        );
        let result = copy_tunnel_after(refused.said, refused.tcp, stream, &second).await;
        finish(second, result);
    }

    /// Whether there may be a pod in the mesh by now.
    fn may_have_joined(&self) -> bool {
        match (&self.route.workload, &self.route.service) {
            (Some(workload), _) => !workload.host_network,
            (None, None) => is_near(self.peer.ip(), self.route.target.ip()),
            (None, Some(_)) => false,
        }
    }

    /// Over HBONE, if the destination's ztunnel has denied the connection that came `from` here.
    pub(super) async fn reopen(&self, from: SocketAddr) -> Option<(Route, HboneStream)> {
        if !self.may_have_joined() {
            return None;
        }
        let target = self.route.target;
        let address = SocketAddr::new(target.ip(), PORT_HBONE);
        let (state, strangers) = (&self.proxy.state, &self.proxy.strangers);
        let known = state.workload(target.ip());
        if strangers.is_known(Instant::now(), target.ip(), known.as_ref()) {
            return None;
        }
        let workload = match known {
            Some(workload) => workload,
            None => self.news(address).await?,
        };
        if !self.goes_directly() {
            return None;
        }
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from(from.to_string()).ok()?;
        headers.insert(HeaderName::from_static(HEADER_DENIED), value);
        let end = End {
            target,
            address,
            workload: &workload,
        };
        let within = Some(self.proxy.limits.attempt_timeout);
        let opened = tunnel(self.proxy, self.pod, self.lease, &end, &headers, within).await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "not denied by a ztunnel");
                // Where one is refused at once it costs little to ask again, and the pod may be captured at any time.
                if workload.protocol != Protocol::Hbone && error.is_silence() {
                    strangers.remember(Instant::now(), target.ip(), Some(workload));
                }
                return None;
            }
        };
        let route = Route {
            hbone: Some(address),
            workload: Some(workload),
            ..self.route.clone()
        };
        // Another success is of a proxy that does not know what it was asked.
        (stream.status() == StatusCode::ACCEPTED).then_some((route, stream))
    }

    /// Whether a connection to there would not go through a waypoint now: nothing goes past one.
    fn goes_directly(&self) -> bool {
        let route = self
            .proxy
            .state
            .route(Some(self.peer.ip()), self.destination, &[]);
        route.is_ok_and(|route| route.waypoint.is_none())
    }

    /// The workload, once this node hears of it. Only where something listens for HBONE: other resets are passed on at
    /// once, and nobody is asked there for a while.
    async fn news(&self, address: SocketAddr) -> Option<Arc<Workload>> {
        let (limits, state) = (&self.proxy.limits, &self.proxy.state);
        if let Err(failure) = connect(self.pod, address, limits.attempt_timeout).await {
            if !failure.is_local() {
                self.proxy.strangers.remember(Instant::now(), address.ip(), None);
            }
            return None;
        }
        let mut changes = state.addresses_changed();
        let heard = async {
            loop {
                changes.borrow_and_update();
                if let Some(workload) = state.workload(address.ip()) {
                    return Some(workload);
                }
                changes.changed().await.ok()?;
            }
        };
        timeout(limits.skew_timeout, heard).await.ok().flatten()
    }
}

/// Whether an address that nobody knows may be a pod's: pods of a cluster are in one range, or a few. It keeps most
/// hosts outside of the cluster from being asked.
fn is_near(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets()[0] == other.octets()[0],
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[0] == other.segments()[0],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use ambit_wire::workload::{
        Address, GatewayAddress, NetworkAddress, Port, PortList, Service, Workload, address::Type,
    };

    use super::*;
    use crate::proxy::testing::{pod, proxy, server};

    const SERVICE: &str = "test/server.test.svc.cluster.local";

    fn service(waypoint: Option<GatewayAddress>) -> (String, Address) {
        let service = Service {
            name: "server".into(),
            namespace: "test".into(),
            hostname: "server.test.svc.cluster.local".into(),
            addresses: vec![NetworkAddress {
                address: vec![10, 96, 0, 1],
                ..NetworkAddress::default()
            }],
            ports: vec![Port {
                service_port: 80,
                target_port: 80,
                ..Port::default()
            }],
            waypoint,
            ..Service::default()
        };
        let what = Some(Type::Service(service));
        (SERVICE.into(), Address { r#type: what })
    }

    fn endpoint() -> (String, Address) {
        let (name, server) = server();
        let Some(Type::Workload(server)) = server.r#type else {
            panic!("no workload")
        };
        let ports = vec![Port {
            service_port: 80,
            target_port: 80,
            ..Port::default()
        }];
        let ports = PortList {
            ports,
            ..PortList::default()
        };
        let server = Workload {
            services: [(SERVICE.into(), ports)].into(),
            ..server
        };
        let what = Some(Type::Workload(server));
        (name, Address { r#type: what })
    }

    /// The waypoint may be the service's, and have come since the connection was made.
    #[tokio::test]
    async fn nothing_is_repeated_past_a_waypoint() {
        let proxy = proxy(false);
        let pod = pod(&proxy);
        let (peer, destination) = (([10, 9, 0, 2], 40_000).into(), ([10, 96, 0, 1], 80).into());
        proxy.state.apply_addresses(&[], [service(None), endpoint()]);
        let route = proxy.state.route(None, destination, &[]).unwrap();
        let lease = pod.lease.load_full();
        let plaintext = Plaintext {
            proxy: &proxy,
            pod: &pod,
            lease: &lease,
            peer,
            destination,
            route: &route,
        };
        assert!(plaintext.goes_directly());
        proxy
            .state
            .apply_addresses(&[], [service(Some(GatewayAddress::default()))]);
        assert!(!plaintext.goes_directly());
    }
}
