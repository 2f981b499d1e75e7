//! Sockets of the proxies' data paths.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Most files of a process that has no limit: the kernel's own default.
const UNLIMITED: usize = 1 << 20;

/// For every socket: no delay, and dead peers are noticed.
///
/// # Errors
/// When the connection is gone already.
pub fn prepare_socket(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(180))
        .with_interval(Duration::from_secs(30))
        .with_retries(9);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// Raises the soft limit of open files to the hard one, as container runtimes set the former low. Returns what holds then.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "RLIMIT_NOFILE stays at its soft limit");
            limit.current
        }
    };
    let current = current.and_then(|current| usize::try_from(current).ok());
    current.unwrap_or(UNLIMITED).min(UNLIMITED)
}
