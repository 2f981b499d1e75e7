//! Connections that a pod makes (15001).

mod again;
mod guarded;
mod reach;
mod skew;

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::{CopyError, copy_tcp, copy_tunnel};
use ambit_tls::IdentityLease;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connect::ConnectFailure;
use super::refuse::Arrival;
use super::{Direction, Proxy, canonical, is_own_port, reset};
use crate::observe::{Peer, Record, Refusal, Reporter, Traffic};
use crate::pod::Pod;
use crate::state::{Route, WAYPOINT_UNREACHABLE};
use again::Plaintext;
use ambit_mesh::{InUse, Workload};
use guarded::Guarded;
use reach::{Failure, Upstream, reach, unreached_waypoint};

pub(super) async fn serve(proxy: &Arc<Proxy>, pod: &Arc<Pod>, tcp: TcpStream, peer: SocketAddr) {
    let local = tcp.local_addr().ok().map(canonical);
    let destination = match destination(proxy, pod, &tcp, peer) {
        Ok(destination) => destination,
        Err(refusal) => {
            reset(tcp);
            let direction = Direction::Outbound;
            return Arrival {
                proxy,
                pod,
                direction,
                peer,
                local,
                identity: None,
            }
            .refused(refusal, None);
        }
    };
    let lease = pod.lease.load_full();
    let mut waited = false;
    let mut guarded = Guarded::default();
    let (route, result) = loop {
        let (route, result) = find(proxy, pod, &lease, peer, destination).await;
        if let Err(failure) = &result {
            if !waited && skew::has_left(proxy, route.as_ref(), failure).await {
                waited = true;
                continue;
            }
            let ends = (peer, destination);
            if guarded.may_open(proxy, pod, ends, route.as_ref(), failure).await {
                continue;
            }
        }
        break (route, result);
    };
    // Its place is for those that wait.
    drop(guarded);
    let record = record(
        proxy,
        pod,
        &lease,
        peer,
        destination,
        route.as_ref(),
        result.as_ref().err(),
    );
    match result {
        Ok(Upstream::Tunnel(stream)) => {
            let result = copy_tunnel(tcp, stream, &record).await;
            finish(record, result);
        }
        Ok(Upstream::Plain(upstream)) => {
            let Some(route) = &route else {
                let result = copy_tcp(tcp, upstream, &pod.memory, &record).await;
                return finish(record, result);
            };
            let lease = &lease;
            let plaintext = Plaintext {
                proxy,
                pod,
                lease,
                peer,
                destination,
                route,
            };
            plaintext.serve(tcp, upstream, record).await;
        }
        Err(failure) => {
            reset(tcp);
            match unreached_waypoint(route.as_ref(), &failure) {
                Some(waypoint) => {
                    let error =
                        format!("{WAYPOINT_UNREACHABLE}: {waypoint}, which must not be bypassed: {failure}");
                    record.fail(WAYPOINT_UNREACHABLE, &error);
                }
                None => record.fail(failure.reason(), &failure),
            }
        }
    }
}

/// Tries the available endpoints; returns the connection, or the last failure, with its route.
async fn find(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    lease: &IdentityLease,
    peer: SocketAddr,
    destination: SocketAddr,
) -> (Option<Route>, Result<Upstream, Failure>) {
    let begun = Instant::now();
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let route = match proxy.state.route(Some(peer.ip()), destination, &tried) {
            Ok(route) => route,
            Err(error) => {
                // The failure of the last endpoint has more information than "no other endpoint".
                break match last {
                    Some((route, failure)) => (Some(route), Err(failure)),
                    None => (None, Err(Failure::from(error))),
                };
            }
        };
        if skew::has_joined(proxy, peer, lease.identity(), &route).await {
            continue;
        }
        let attempts = tried.len() + 1;
        // For a waypoint every replica is tried while there is time, since it must not be bypassed.
        let last_attempt = attempts >= proxy.limits.connect_attempts
            && (route.waypoint.is_none() || begun.elapsed() >= proxy.limits.connect_timeout);
        let hurry = route.others && !last_attempt;
        match reach(proxy, pod, lease, &route, peer, hurry).await {
            Ok(upstream) => {
                route.in_use.iter().for_each(InUse::succeeded);
                break (Some(route), Ok(upstream));
            }
            Err(failure) => {
                if let Failure::Plaintext(ConnectFailure::Reset { from, .. }) = failure {
                    let route = &route;
                    let plaintext = Plaintext {
                        proxy,
                        pod,
                        lease,
                        peer,
                        destination,
                        route,
                    };
                    if let Some((route, stream)) = plaintext.reopen(from).await {
                        break (Some(route), Ok(Upstream::Tunnel(stream)));
                    }
                }
                if failure.is_absence() {
                    route.in_use.iter().for_each(InUse::failed);
                }
                let endpoint = route
                    .in_use
                    .as_ref()
                    .and(route.workload.as_ref())
                    .map(|w| Arc::clone(&w.uid));
                let more = failure.is_of_the_endpoint() && !last_attempt;
                let Some(endpoint) = endpoint.filter(|_| more) else {
                    break (Some(route), Err(failure));
                };
                tracing::debug!(error = %failure, "endpoint not reached: trying another");
                tried.push(endpoint);
                last = Some((route, failure));
            }
        }
    }
}

fn finish(record: Record, result: Result<(), CopyError>) {
    match result {
        Ok(()) => record.end(None),
        Err(error) => record.end(Some(&error)),
    }
}

/// The original destination.
fn destination(proxy: &Proxy, pod: &Pod, tcp: &TcpStream, peer: SocketAddr) -> Result<SocketAddr, Refusal> {
    let original = (proxy.original_destination)(tcp).map_err(|_| Refusal::NoOriginalDestination)?;
    // A connection that was not redirected has the proxy itself as destination, and would loop.
    let of_pod = |ip| ip == peer.ip() || pod.info.load().addresses.contains(&ip);
    if is_own_port(original.port()) && of_pod(original.ip()) {
        return Err(Refusal::OwnPort(original));
    }
    Ok(original)
}

/// The workload of the pod. The agent may not have the pod's addresses yet, but the pod connects from one of them.
fn source(proxy: &Proxy, pod: &Pod, peer: SocketAddr) -> Option<Arc<Workload>> {
    let info = pod.info.load();
    proxy.state.workload(peer.ip()).filter(|workload| {
        workload.name == info.identity.name && workload.namespace == info.identity.namespace
    })
}

fn record(
    proxy: &Arc<Proxy>,
    pod: &Pod,
    lease: &IdentityLease,
    peer: SocketAddr,
    destination: SocketAddr,
    route: Option<&Route>,
    failure: Option<&Failure>,
) -> Record {
    let info = pod.info.load_full();
    let source = source(proxy, pod, peer);
    let of_route = route.and_then(|route| route.workload.clone());
    let secure = route.is_some_and(|route| route.hbone.is_some());
    let service = route
        .and_then(|route| route.service.clone())
        .or_else(|| match failure {
            Some(Failure::Route(error)) => error.service().cloned(),
            _ => None,
        });
    Record::open(
        &proxy.metrics,
        proxy.access_log,
        Traffic {
            reporter: Reporter::Source,
            source: Peer {
                address: peer,
                identity: secure.then(|| lease.identity().clone()),
                workload: source,
                pod: Some(info),
            },
            destination: Peer {
                address: route.map_or(destination, |route| route.hbone.unwrap_or(route.target)),
                identity: of_route
                    .as_deref()
                    .filter(|_| secure)
                    .map(|w: &Workload| w.identity.clone()),
                workload: of_route,
                pod: None,
            },
            hbone: route
                .filter(|route| route.hbone.is_some())
                .map(|route| route.target),
            service,
        },
    )
}
