//! Connections from a pod's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ambit_runtime::prepare_socket;
use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::broker::SocketError;
use crate::pod::Pod;

/// Ports tried before a client's address is given up.
const BIND_ATTEMPTS: usize = 16;
/// An application on the same host answers at once or not at all. One that does not may be hidden behind a connection which was
/// there before the pod was captured and has the same ports; then another port helps.
const LOCAL_CONNECT: Duration = Duration::from_secs(2);

/// Why the application was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("connecting to {0}: {1}")]
    Io(SocketAddr, io::Error),
    #[error("no connection to {to} within {}s", .waited.as_secs_f32())]
    Timeout { to: SocketAddr, waited: Duration },
    #[error("no free port at {0} to connect to {1} from")]
    NoPort(IpAddr, SocketAddr),
}

impl From<ConnectFailure> for io::Error {
    fn from(failure: ConnectFailure) -> Self {
        match failure {
            ConnectFailure::Io(_, error) => error,
            ConnectFailure::Timeout { .. } => Self::new(io::ErrorKind::TimedOut, failure.to_string()),
            _ => Self::other(failure.to_string()),
        }
    }
}

/// Connects as the pod itself.
pub(crate) async fn connect(
    pod: &Pod,
    to: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectFailure> {
    let deadline = Instant::now() + timeout;
    let socket = pod.sockets.take(to.ip(), timeout).await?;
    let socket = prepared(socket).map_err(|error| ConnectFailure::Io(to, error))?;
    dial(socket, to, deadline, timeout).await
}

/// Connects with a client's own address, from any of its ports that does not meet another connection of that client.
pub(crate) async fn connect_from(
    pod: &Pod,
    client: IpAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectFailure> {
    let deadline = Instant::now() + timeout;
    let io = |error| ConnectFailure::Io(to, error);
    // Kept until the end, so that the kernel offers each of their ports once.
    let mut taken = Vec::new();
    for _ in 0..BIND_ATTEMPTS {
        let left = deadline.saturating_duration_since(Instant::now());
        let socket = prepared(pod.sockets.take(to.ip(), left).await?).map_err(io)?;
        // The socket is IP_TRANSPARENT: the address need not be this host's.
        socket.bind(&SocketAddr::new(client, 0).into()).map_err(io)?;
        let bound = socket.local_addr().map_err(io)?.as_socket();
        if bound.is_some_and(|bound| pod.is_plaintext_peer(bound, to.port())) {
            taken.push(socket);
            continue;
        }
        match dial(socket, to, deadline.min(Instant::now() + LOCAL_CONNECT), timeout).await {
            // The same four-tuple is in use already.
            Err(ConnectFailure::Io(_, error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(ConnectFailure::Timeout { .. }) if Instant::now() < deadline => {}
            result => return result,
        }
    }
    Err(ConnectFailure::NoPort(client, to))
}

fn prepared(socket: OwnedFd) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn dial(
    socket: Socket,
    to: SocketAddr,
    deadline: Instant,
    timeout: Duration,
) -> Result<TcpStream, ConnectFailure> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let tcp = tokio::time::timeout_at(deadline, socket.connect(to))
        .await
        .map_err(|_| ConnectFailure::Timeout { to, waited: timeout })?
        .map_err(|error| ConnectFailure::Io(to, error))?;
    prepare_socket(&tcp).map_err(|error| ConnectFailure::Io(to, error))?;
    Ok(tcp)
}
