//! How connections to endpoints come about.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_hbone::{ConnectError, HboneConfig, HbonePool, HboneStream, OpenError, PoolKey};
use ambit_mesh::{GUARD_TIMEOUT, GuardPauses, MOST_GUARDED};
use ambit_runtime::prepare_socket;
use ambit_tls::IdentityLease;
use ambit_wire::names::{HEADER_GUARD, guarded};
use http::StatusCode;
use http::uri::Authority;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::connection::{Transport, UpstreamIo};
use super::destination::Destination;

/// How long what was sent to a plaintext endpoint may stay without an acknowledgement: then its node is gone, and the connection fails.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why there is no connection to the application. It has seen nothing of the request.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error("{0}")]
    Tunnel(#[from] OpenError),
    #[error("connecting to {0}: {1}")]
    Tcp(SocketAddr, Arc<io::Error>),
    #[error("no connection to {to} within {}s", .waited.as_secs_f32())]
    Timeout { to: SocketAddr, waited: Duration },
}

impl ConnectFailure {
    /// Whether nobody was there, whoever had come: such an endpoint is avoided for a while.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Tcp(..) | Self::Timeout { .. } => true,
            Self::Tunnel(OpenError::Refused { status, .. }) => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Tunnel(OpenError::Connect(error)) => !matches!(
                error,
                ConnectError::Tls { .. } | ConnectError::Certificate { .. } | ConnectError::Closed
            ),
            Self::Tunnel(_) => true,
        }
    }

    /// Whether nothing listens for HBONE there.
    pub(crate) fn is_nobody_there(&self) -> bool {
        matches!(self, Self::Tunnel(error) if error.is_nobody_there())
    }

    /// In a few words, for the caller: no addresses.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Tcp(_, error) => brief(error),
            Self::Timeout { .. } | Self::Tunnel(OpenError::Connect(ConnectError::Timeout { .. })) => {
                "connecting timed out".to_owned()
            }
            Self::Tunnel(OpenError::Connect(ConnectError::Dial { error, .. })) => brief(error),
            Self::Tunnel(OpenError::Connect(ConnectError::Tls { .. })) => "TLS failed".to_owned(),
            Self::Tunnel(OpenError::Connect(ConnectError::Certificate { .. })) => {
                "the waypoint has no certificate".to_owned()
            }
            Self::Tunnel(OpenError::Connect(ConnectError::Closed)) => {
                "the waypoint is shutting down".to_owned()
            }
            // What a ztunnel says when the application does not take the connection.
            Self::Tunnel(OpenError::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..
            }) => "connection refused".to_owned(),
            Self::Tunnel(OpenError::Refused {
                status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            }) => "the destination's policy denies the waypoint".to_owned(),
            Self::Tunnel(OpenError::Refused { status, .. }) => {
                format!("the destination's proxy responded {status}")
            }
            Self::Tunnel(OpenError::ResponseTimeout(_)) => {
                "the destination's proxy does not respond".to_owned()
            }
            Self::Tunnel(_) => "the connection to the destination's proxy failed".to_owned(),
        }
    }
}

fn brief(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "connecting timed out".to_owned(),
        kind => kind.to_string(),
    }
}

/// Connects with endpoints.
pub(super) struct Connector {
    pub(super) hbone: HbonePool,
    /// The waypoint's own identity.
    lease: IdentityLease,
    connect_timeout: Duration,
    age: Duration,
    guarded: Semaphore,
    /// In the place of a pod's UID in pool keys: all connections are made from here.
    here: Arc<str>,
    #[cfg(feature = "testing")]
    pub(super) endpoints: std::sync::OnceLock<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

impl Connector {
    pub(super) fn new(lease: IdentityLease, config: HboneConfig, age: Duration) -> Self {
        Self {
            connect_timeout: config.connect_timeout,
            hbone: HbonePool::new(config),
            age,
            lease,
            guarded: Semaphore::new(MOST_GUARDED),
            here: Arc::from(""),
            #[cfg(feature = "testing")]
            endpoints: std::sync::OnceLock::new(),
        }
    }

    /// Until when a connection that is made now takes requests. Not all end at once.
    pub(super) fn old(&self) -> Instant {
        Instant::now() + self.age.mul_f64(rand::random_range(0.8..1.0))
    }

    /// A new connection to the application.
    pub(super) async fn connect(&self, to: &Destination) -> Result<UpstreamIo, ConnectFailure> {
        Ok(UpstreamIo::new(self.transport(to).await?))
    }

    /// An end of a new connection in memory, where there are such.
    #[cfg(feature = "testing")]
    fn in_memory(&self) -> Option<tokio::io::DuplexStream> {
        let (near, far) = tokio::io::duplex(64 << 10);
        self.endpoints.get()?.send(far).ok().map(|()| near)
    }

    /// A tunnel to the application. A guard of this namespace that does not admit this waypoint is older than what the waypoint serves, or its
    /// node has yet to hear of it: it is asked again for a while.
    async fn tunnel(
        &self,
        key: &PoolKey,
        authority: &Authority,
        address: SocketAddr,
    ) -> Result<HboneStream, OpenError> {
        let mut waiting = None;
        loop {
            let opened = self
                .hbone
                .open(key, &self.lease, authority, || dial(address))
                .await;
            let guard = opened
                .as_ref()
                .err()
                .and_then(|error| error.denied_with(HEADER_GUARD));
            let own = guard
                .and_then(guarded)
                .is_some_and(|(namespace, _)| namespace == self.lease.identity().namespace());
            if !own {
                return opened;
            }
            if waiting.is_none() {
                let place = self.guarded.try_acquire().ok();
                waiting = place.map(|place| (GuardPauses::new(GUARD_TIMEOUT), place));
            }
            let Some(end) = waiting.as_mut().and_then(|(pauses, _)| pauses.next_end()) else {
                return opened;
            };
            tokio::time::sleep_until(end).await;
        }
    }

    async fn transport(&self, to: &Destination) -> Result<Transport, ConnectFailure> {
        #[cfg(feature = "testing")]
        if let Some(memory) = self.in_memory() {
            return Ok(Transport::Memory(memory));
        }
        Ok(if let Some(address) = to.hbone {
            let key = PoolKey {
                source: self.lease.identity().clone(),
                destination: [to.identity.clone()].into(),
                address,
                workload: Arc::clone(&to.workload),
                pod: Arc::clone(&self.here),
            };
            let authority = to.address.to_string().parse().map_err(|error| {
                // An address and port always are an authority; this only keeps the data path free of panics.
                ConnectFailure::Tcp(
                    to.address,
                    Arc::new(io::Error::other::<http::uri::InvalidUri>(error)),
                )
            })?;
            let stream = Box::pin(self.tunnel(&key, &authority, address)).await?;
            Transport::Hbone(stream.into_io())
        } else {
            let failed = |error| ConnectFailure::Tcp(to.address, Arc::new(error));
            let tcp = tokio::time::timeout(self.connect_timeout, dial(to.address))
                .await
                .map_err(|_| ConnectFailure::Timeout {
                    to: to.address,
                    waited: self.connect_timeout,
                })?
                .map_err(failed)?;
            // Over HBONE, PINGs find out that a node is gone.
            SockRef::from(&tcp)
                .set_tcp_user_timeout(Some(UNACKNOWLEDGED))
                .map_err(failed)?;
            Transport::Plain(tcp)
        })
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(to).await?;
    prepare_socket(&tcp)?;
    Ok(tcp)
}
