//! To the destination: an HBONE stream, or plaintext out of the mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{ConnectError, HboneStream, OpenError, PoolKey};
use ambit_tls::IdentityLease;
use ambit_wire::names::HEADER_GUARD;
use http::{HeaderMap, StatusCode};

use crate::pod::Pod;
use crate::proxy::Proxy;
use crate::proxy::baggage;
use crate::proxy::connect::{ConnectFailure, connect, connect_for_long};
use crate::sockets::ReusableStream;
use crate::state::{Route, RouteError};
use ambit_mesh::{Waypoint, Workload};

/// Why a destination was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Tunnel(#[from] OpenError),
    #[error(transparent)]
    Plaintext(#[from] ConnectFailure),
}

impl Failure {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Route(error) => error.reason(),
            Self::Tunnel(OpenError::Refused {
                status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            }) => "denied_by_destination",
            Self::Tunnel(OpenError::Refused { .. }) => "refused_by_destination",
            Self::Tunnel(OpenError::Connect(_)) => "hbone_connect",
            Self::Tunnel(_) => "hbone_stream",
            Self::Plaintext(_) => "connect",
        }
    }

    /// Whether another endpoint may do better. A denial is meant for the client, whichever endpoint says it.
    pub(super) fn is_of_the_endpoint(&self) -> bool {
        match self {
            Self::Route(_) => false,
            Self::Plaintext(failure) => !failure.is_local(),
            Self::Tunnel(OpenError::Connect(ConnectError::Dial { error, .. })) => {
                !ConnectFailure::made_locally(error)
            }
            Self::Tunnel(OpenError::Refused { status, .. }) => {
                !matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            }
            Self::Tunnel(OpenError::Connect(error)) => {
                !matches!(error, ConnectError::Certificate { .. } | ConnectError::Closed)
            }
            Self::Tunnel(_) => true,
        }
    }

    /// The guard that has denied it, by its full name: the way there is through a waypoint.
    pub(super) fn guard(&self) -> Option<&str> {
        match self {
            Self::Tunnel(error) => error.denied_with(HEADER_GUARD),
            _ => None,
        }
    }

    /// Whether nothing was heard from there.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Tunnel(OpenError::Connect(ConnectError::Dial { error, .. })) => {
                error.kind() == std::io::ErrorKind::TimedOut
            }
            Self::Tunnel(OpenError::ResponseTimeout(_)) => true,
            _ => false,
        }
    }

    /// Whether nobody was there, whoever had come.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::Tunnel(OpenError::Refused { status, .. }) => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Tunnel(OpenError::Connect(ConnectError::Tls { .. })) => false,
            failure => failure.is_of_the_endpoint(),
        }
    }
}

pub(super) enum Upstream {
    Tunnel(HboneStream),
    Plain(ReusableStream),
}

/// Makes the connection of a route. In a `hurry` there are others to try.
pub(super) async fn reach(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    lease: &IdentityLease,
    route: &Route,
    peer: SocketAddr,
    hurry: bool,
) -> Result<Upstream, Failure> {
    let limits = &proxy.limits;
    let (Some(address), Some(workload)) = (route.hbone, &route.workload) else {
        let timeout = if hurry {
            limits.attempt_timeout
        } else {
            limits.connect_timeout
        };
        return Ok(Upstream::Plain(connect(pod, route.target, timeout).await?));
    };
    let headers = match (&route.waypoint, super::source(proxy, pod, peer)) {
        (Some(_), Some(source)) => baggage::headers(&source),
        _ => HeaderMap::new(),
    };
    // The whole of it: a pooled connection may be to a node that died without a word.
    let within = hurry.then_some(match route.waypoint {
        Some(_) => limits.waypoint_timeout,
        None => limits.attempt_timeout,
    });
    let end = End {
        target: route.target,
        address,
        workload,
    };
    let stream = tunnel(proxy, pod, lease, &end, &headers, within).await?;
    Ok(Upstream::Tunnel(stream))
}

/// The other end of a tunnel.
pub(super) struct End<'a> {
    /// Address and port of the application.
    pub(super) target: SocketAddr,
    /// Where HBONE is taken.
    pub(super) address: SocketAddr,
    /// Who has to be there.
    pub(super) workload: &'a Workload,
}

/// Opens a tunnel, within that time or the limits for what there is no other to try for.
pub(super) async fn tunnel(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    lease: &IdentityLease,
    end: &End<'_>,
    headers: &HeaderMap,
    within: Option<Duration>,
) -> Result<HboneStream, Failure> {
    let End {
        target,
        address,
        workload,
    } = *end;
    let limits = &proxy.limits;
    let timeout = match within {
        Some(_) => limits.attempt_timeout,
        None => limits.connect_timeout,
    };
    let key = PoolKey {
        source: lease.identity().clone(),
        destination: [workload.identity.clone()].into(),
        address,
        workload: Arc::clone(&workload.uid),
        pod: Arc::clone(&pod.uid),
    };
    let authority = target
        .to_string()
        .parse()
        .map_err(|error: http::uri::InvalidUri| {
            // An address and port always are an authority; this only keeps the data path free of panics.
            ConnectFailure::Io(target, std::io::Error::other(error))
        })?;
    let dial = || {
        let pod = Arc::clone(pod);
        async move { Ok(connect_for_long(&pod, address, timeout).await?) }
    };
    let pool = &proxy.pool;
    let stream = match within {
        Some(within) => {
            pool.open_within(&key, lease, &authority, headers, within, dial)
                .await
        }
        None => pool.open_with(&key, lease, &authority, headers, dial).await,
    };
    Ok(stream?)
}

/// The waypoint that was not reached, if that is what failed. One that answers is there.
pub(super) fn unreached_waypoint<'a>(route: Option<&'a Route>, failure: &Failure) -> Option<&'a Waypoint> {
    let waypoint = route?.waypoint.as_ref()?;
    let unreached = match failure {
        Failure::Tunnel(OpenError::Refused { status, .. }) => *status == StatusCode::SERVICE_UNAVAILABLE,
        failure => failure.is_of_the_endpoint(),
    };
    unreached.then_some(waypoint)
}
