//! Sockets of the proxies' data paths.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Most files of a process that has no limit: the kernel's own default.
const UNLIMITED: usize = 1 << 20;

/// Silence after which a peer is probed, and between two probes. Applications probe their own connections, but what they probe is the
/// proxy, which always answers: so the proxy notices a dead peer as soon as the default of Go, the most eager of the common ones,
/// would (150 s). It is short enough, too, that connection tracking on the way never forgets a connection whose one half is closed
/// (60 s by default).
const PROBE: Duration = Duration::from_secs(15);
/// Probes without an answer.
const PROBES: u32 = 9;

/// For every socket: no delay, and dead peers are noticed. A live peer may be silent for as long as it likes. There is no
/// `TCP_USER_TIMEOUT`: it would end connections whose peer is alive and does not read.
///
/// # Errors
/// When the connection is gone already.
pub fn prepare_socket(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE)
        .with_interval(PROBE)
        .with_retries(PROBES);
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
