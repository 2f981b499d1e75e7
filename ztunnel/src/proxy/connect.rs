//! Connections from a pod's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ambit_runtime::prepare_socket;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::pod::Pod;
use crate::sockets::{PodSocket, PodStream, ReusableStream, SocketError};

/// Ports tried before the proxy gives up connecting with a client's address.
const BIND_ATTEMPTS: usize = 16;
/// An application on the same host responds at once or not at all. If it does not, a connection from before the capture
/// with the same ports may be in the way; then another port helps. Each further attempt waits twice as long, since the
/// queue of the application may also be full.
const LOCAL_CONNECT: Duration = Duration::from_millis(50);
const LONGEST_LOCAL_CONNECT: Duration = Duration::from_secs(2);

/// Why the application was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("connecting to {0}: {1}")]
    Io(SocketAddr, io::Error),
    /// The destination accepted the connection and reset it at once, before any byte.
    #[error("{to} reset the connection at once")]
    Reset { from: SocketAddr, to: SocketAddr },
    #[error("no connection to {to} within {}s", .waited.as_secs_f32())]
    Timeout { to: SocketAddr, waited: Duration },
    #[error("no free port at {0} for a connection to {1}")]
    NoPort(IpAddr, SocketAddr),
}

impl ConnectFailure {
    /// Whether the cause is on this node, so that no other destination helps.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Socket(_) | Self::NoPort(..))
    }

    /// Whether an error wraps a failure for which [`Self::is_local`] holds.
    pub(crate) fn made_locally(error: &io::Error) -> bool {
        let failure = error.get_ref().and_then(|error| error.downcast_ref::<Self>());
        failure.is_some_and(Self::is_local)
    }
}

impl From<ConnectFailure> for io::Error {
    fn from(failure: ConnectFailure) -> Self {
        match failure {
            ConnectFailure::Io(_, error) => error,
            ConnectFailure::Timeout { .. } => Self::new(io::ErrorKind::TimedOut, failure),
            ConnectFailure::Reset { .. } => Self::new(io::ErrorKind::ConnectionReset, failure),
            _ => Self::other(failure),
        }
    }
}

/// Connects as the pod itself.
pub(crate) async fn connect(
    pod: &Pod,
    to: SocketAddr,
    timeout: Duration,
) -> Result<ReusableStream, ConnectFailure> {
    Ok(from_pod(pod, to, timeout).await?.reusable())
}

/// The same for a connection that will be pooled.
pub(crate) async fn connect_for_long(
    pod: &Pod,
    to: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectFailure> {
    Ok(from_pod(pod, to, timeout).await?.into_tcp())
}

async fn from_pod(pod: &Pod, to: SocketAddr, timeout: Duration) -> Result<PodStream, ConnectFailure> {
    let deadline = Instant::now() + timeout;
    let socket = pod.sockets.take(to.ip(), timeout).await?;
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = begin(&socket, any, to)?;
    finish(socket, to, deadline, timeout)
        .await
        .map_err(|failure| match (failure, from) {
            // A connection that is not established is refused instead.
            (ConnectFailure::Io(to, error), Some(from)) if error.kind() == io::ErrorKind::ConnectionReset => {
                ConnectFailure::Reset { from, to }
            }
            (failure, _) => failure,
        })
}

/// Connects with a client's own address, from a port that no other connection of that client uses.
pub(crate) async fn connect_from(
    pod: &Pod,
    client: IpAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<ReusableStream, ConnectFailure> {
    let deadline = Instant::now() + timeout;
    // Held until the end, so that the kernel offers each port once.
    let mut taken = Vec::new();
    let mut patience = LOCAL_CONNECT;
    for _ in 0..BIND_ATTEMPTS {
        let left = deadline.saturating_duration_since(Instant::now());
        let socket = pod.sockets.take(to.ip(), left).await?;
        // The kernel chooses the port now. The client's own connection drops packets sent before.
        let bound = begin(&socket, client, to)?;
        if bound.is_some_and(|bound| pod.is_plaintext_peer(bound, to.port())) {
            taken.push(socket);
            continue;
        }
        match finish(socket, to, deadline.min(Instant::now() + patience), timeout).await {
            Err(ConnectFailure::Timeout { .. }) if Instant::now() < deadline => {
                patience = LONGEST_LOCAL_CONNECT.min(patience * 2);
            }
            result => return Ok(result?.reusable()),
        }
    }
    Err(ConnectFailure::NoPort(client, to))
}

fn begin(socket: &PodSocket, from: IpAddr, to: SocketAddr) -> Result<Option<SocketAddr>, ConnectFailure> {
    socket.begin(from, to).map_err(|error| match error.kind() {
        // Each of its ports has a connection to this destination.
        io::ErrorKind::AddrNotAvailable => ConnectFailure::NoPort(from, to),
        _ => ConnectFailure::Io(to, error),
    })
}

async fn finish(
    socket: PodSocket,
    to: SocketAddr,
    deadline: Instant,
    timeout: Duration,
) -> Result<PodStream, ConnectFailure> {
    let stream = tokio::time::timeout_at(deadline, socket.established())
        .await
        .map_err(|_| ConnectFailure::Timeout { to, waited: timeout })?
        .map_err(|error| ConnectFailure::Io(to, error))?;
    prepare_socket(stream.tcp()).map_err(|error| ConnectFailure::Io(to, error))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_failure_is_distinguished() {
        let to = "10.9.0.3:80".parse().unwrap();
        let closed = || ConnectFailure::Socket(SocketError::Closed);
        for local in [closed(), ConnectFailure::NoPort(Ipv4Addr::LOCALHOST.into(), to)] {
            assert!(local.is_local());
            // As the HBONE pool wraps it.
            assert!(ConnectFailure::made_locally(&local.into()));
        }
        let refused = ConnectFailure::Io(to, io::ErrorKind::ConnectionRefused.into());
        assert!(!refused.is_local() && !ConnectFailure::made_locally(&refused.into()));
        let waited = Duration::from_secs(1);
        assert!(!ConnectFailure::made_locally(
            &ConnectFailure::Timeout { to, waited }.into()
        ));
    }
}
