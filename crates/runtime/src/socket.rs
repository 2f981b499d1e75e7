//! Sockets of the proxies' data paths.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Most files of a process that has no limit: the kernel's own default.
const UNLIMITED: usize = 1 << 20;

/// The idle time before a peer is probed, and between two probes. The keepalive probes of an application only reach the
/// proxy, which always responds. So the proxy itself must notice a dead peer, as soon as the shortest of the common
/// defaults (Go: 150 s). The time is also short enough that connection tracking never forgets a half-closed connection
/// (60 s by default).
const PROBE: Duration = Duration::from_secs(15);
/// Probes without a response until the peer counts as dead.
const PROBES: u32 = 9;

/// Options for every socket: no delay, and detection of dead peers. A live peer may be silent for any time.
/// `TCP_USER_TIMEOUT` is not set: it would end connections whose peer is alive but does not read.
///
/// # Errors
/// When the connection has already ended.
pub fn prepare_socket(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE)
        .with_interval(PROBE)
        .with_retries(PROBES);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// Raises the soft limit of open files to the hard limit, as container runtimes set the soft limit low. Returns the new
/// limit.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise RLIMIT_NOFILE above its soft limit");
            limit.current
        }
    };
    let current = current.and_then(|current| usize::try_from(current).ok());
    current.unwrap_or(UNLIMITED).min(UNLIMITED)
}
