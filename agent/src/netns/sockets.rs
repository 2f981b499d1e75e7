//! The sockets that a ztunnel uses in a pod. They are made here because making them takes privileges; using them takes none.

use super::{NetnsError, socket_netns_inode};
use ambit_wire::names::{MARK_PROXY, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, PORT_SEED};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections that wait while no proxy accepts (the kernel caps it at `net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// The order in which the broker protocol passes them.
const PORTS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE];
const NAMES: [&str; 3] = ["listener 15001", "listener 15006", "listener 15008"];
/// Where the seed listeners are.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The sockets of a pod: three listeners, and the seeds of all others. Dropping the last copy of them refuses new connections.
#[derive(Debug)]
pub struct Listeners {
    sockets: [OwnedFd; 3],
    /// IPv4, and IPv6 where the pod has it.
    seeds: Vec<Seed>,
}

/// What a ztunnel makes its sockets in a pod from, for one IP version. It connects the socket to the listener and accepts: what it
/// accepts has the listener's mark and transparency, and is a socket like any other once `connect(AF_UNSPEC)` has dissolved the
/// connection.
#[derive(Debug)]
struct Seed {
    listener: OwnedFd,
    socket: OwnedFd,
}

impl Listeners {
    /// The sockets in the protocol's order: 15001, 15006, 15008, then seed listener and seed socket of each IP version.
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        let seeds = self
            .seeds
            .iter()
            .flat_map(|seed| [seed.listener.as_fd(), seed.socket.as_fd()]);
        self.sockets.iter().map(AsFd::as_fd).chain(seeds).collect()
    }

    /// Takes sockets over from a proxy, after a look at each: that it belongs to the namespace `inode`, is bound to its port
    /// on every address (a seed listener on the loopback), and listens. One that was shut down listens again.
    ///
    /// # Errors
    /// Which socket is wrong and how.
    pub fn adopt(sockets: Vec<OwnedFd>, inode: u64) -> Result<Self, AdoptError> {
        let count = sockets.len();
        let wrong = |socket: &'static str| move |why| AdoptError::Socket { socket, why };
        let mut sockets = sockets.into_iter();
        let (Some(outbound), Some(inbound), Some(hbone)) = (sockets.next(), sockets.next(), sockets.next())
        else {
            return Err(AdoptError::Count(count));
        };
        let listeners = [outbound, inbound, hbone];
        for ((socket, port), name) in listeners.iter().zip(PORTS).zip(NAMES) {
            check_listener(socket.as_fd(), port, inode).map_err(wrong(name))?;
        }
        let mut seeds = vec![];
        for loopback in LOOPBACKS {
            let Some(listener) = sockets.next() else { break };
            let socket = sockets.next().ok_or(AdoptError::Count(count))?;
            check_seed_listener(listener.as_fd(), loopback, inode).map_err(wrong("seed listener"))?;
            check_marked(socket.as_fd(), inode).map_err(wrong("seed socket"))?;
            seeds.push(Seed { listener, socket });
        }
        if seeds.is_empty() || sockets.next().is_some() {
            return Err(AdoptError::Count(count));
        }
        Ok(Self {
            sockets: listeners,
            seeds,
        })
    }

    /// Sockets that listen somewhere, where a test needs some.
    #[cfg(test)]
    #[allow(clippy::expect_used, reason = "a test that cannot be set up fails")]
    pub(crate) fn anywhere() -> Self {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound").into();
        Self {
            sockets: [listen(), listen(), listen()],
            seeds: vec![],
        }
    }

    /// Whether every listener listens.
    pub fn are_listening(&self) -> bool {
        let listens = |socket| SockRef::from(socket).is_listener().unwrap_or(false);
        self.all().all(listens)
    }

    /// Makes the sockets listen again, should a proxy have shut one down.
    pub fn repair(&self) -> io::Result<()> {
        self.all()
            .try_for_each(|socket| SockRef::from(socket).listen(BACKLOG))
    }

    /// The listeners, with those of the seeds.
    fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        let seeds = self.seeds.iter().map(|seed| &seed.listener);
        self.sockets.iter().chain(seeds)
    }
}

/// Why a proxy's sockets were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Not three listeners and one or two pairs of seeds.
    #[error("{0} descriptors instead of five or seven")]
    Count(usize),
    /// One socket is not what it should be.
    #[error("{socket}: {why}")]
    Socket {
        /// Which.
        socket: &'static str,
        /// Why.
        why: WrongSocket,
    },
}

/// What is wrong with a socket that a proxy brought.
#[derive(Debug, thiserror::Error)]
pub enum WrongSocket {
    /// The kernel was asked and did not say.
    #[error("the kernel does not describe it: {0}")]
    Unknown(#[from] io::Error),
    /// It is of another network namespace.
    #[error("it belongs to network namespace {actual}, not {expected}")]
    Namespace {
        /// Its own.
        actual: u64,
        /// The pod's.
        expected: u64,
    },
    /// It is no TCP socket.
    #[error("it is not a stream socket over IP")]
    Kind,
    /// It is bound to something else.
    #[error("it is bound to {0}")]
    Address(SocketAddr),
    /// What it makes would be redirected, or could not bear a client's address.
    #[error("it does not have the proxy's mark, or is not transparent")]
    Unmarked,
    /// It does not listen.
    #[error("it does not listen: {0}")]
    Deaf(io::Error),
}

fn check_namespace(socket: BorrowedFd<'_>, inode: u64) -> Result<(), WrongSocket> {
    let actual = socket_netns_inode(socket)?;
    if actual != inode {
        return Err(WrongSocket::Namespace {
            actual,
            expected: inode,
        });
    }
    if SockRef::from(&socket).r#type()? != Type::STREAM {
        return Err(WrongSocket::Kind);
    }
    Ok(())
}

fn check_marked(socket: BorrowedFd<'_>, inode: u64) -> Result<(), WrongSocket> {
    check_namespace(socket, inode)?;
    let socket = SockRef::from(&socket);
    if socket.mark()? != MARK_PROXY || !socket.ip_transparent_v4()? {
        return Err(WrongSocket::Unmarked);
    }
    Ok(())
}

fn check_seed_listener(socket: BorrowedFd<'_>, loopback: IpAddr, inode: u64) -> Result<(), WrongSocket> {
    check_marked(socket, inode)?;
    let address = SockRef::from(&socket).local_addr()?.as_socket();
    let address = address.ok_or(WrongSocket::Kind)?;
    if address != SocketAddr::new(loopback, PORT_SEED) {
        return Err(WrongSocket::Address(address));
    }
    make_listen(socket, PORT_SEED, inode)
}

/// A shut-down listener keeps its port; so does one that was never listening, which this makes what it should be.
fn make_listen(socket: BorrowedFd<'_>, port: u16, inode: u64) -> Result<(), WrongSocket> {
    let socket = SockRef::from(&socket);
    if !socket.is_listener()? {
        socket.listen(BACKLOG).map_err(WrongSocket::Deaf)?;
        tracing::warn!(
            port,
            netns_inode = inode,
            "a listener was shut down; it listens again"
        );
    }
    Ok(())
}

fn check_listener(socket: BorrowedFd<'_>, port: u16, inode: u64) -> Result<(), WrongSocket> {
    check_marked(socket, inode)?;
    let address = SockRef::from(&socket).local_addr()?.as_socket();
    let address = address.ok_or(WrongSocket::Kind)?;
    if address.port() != port || !address.ip().is_unspecified() {
        return Err(WrongSocket::Address(address));
    }
    make_listen(socket, port, inode)
}

/// Makes the listeners in the calling thread's namespace, on every address, and the seeds: for IPv6 too where there is any.
///
/// # Errors
/// [`NetnsError::PortInUse`] when something listens already: the pod's application, or a proxy that holds earlier sockets.
pub fn make_listeners() -> Result<Listeners, NetnsError> {
    let [outbound, inbound, hbone] = PORTS;
    let sockets = [
        make_listener(outbound)?,
        make_listener(inbound)?,
        make_listener(hbone)?,
    ];
    let mut seeds = vec![];
    for loopback in LOOPBACKS {
        match make_seed(loopback) {
            Ok(seed) => seeds.push(seed),
            Err(e) if loopback.is_ipv6() && no_ipv6(&e) => {}
            Err(source) => {
                let action = format!("listen on {loopback}, port {PORT_SEED}");
                return Err(not_listening(PORT_SEED, action, source));
            }
        }
    }
    Ok(Listeners { sockets, seeds })
}

fn make_listener(port: u16) -> Result<OwnedFd, NetnsError> {
    match listen_on(port, Domain::IPV6) {
        Err(e) if no_ipv6(&e) => listen_on(port, Domain::IPV4),
        other => other,
    }
    .map(OwnedFd::from)
    .map_err(|source| not_listening(port, format!("listen on port {port}"), source))
}

fn not_listening(port: u16, action: String, source: io::Error) -> NetnsError {
    match Errno::from_io_error(&source) {
        Some(Errno::ADDRINUSE) => NetnsError::PortInUse { port },
        _ => NetnsError::Socket { action, source },
    }
}

fn no_ipv6(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::OPNOTSUPP)
    )
}

fn listen_on(port: u16, domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    let address: SocketAddr = if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    };
    socket.set_reuse_address(true)?;
    // So that the redirection may hand connections to other addresses to it, and lets what they send pass.
    set_transparent(&socket, domain)?;
    socket.set_mark(MARK_PROXY)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn make_seed(loopback: IpAddr) -> io::Result<Seed> {
    let domain = Domain::for_address((loopback, 0).into());
    let listener = marked(domain)?;
    listener.set_reuse_address(true)?;
    listener.bind(&SocketAddr::new(loopback, PORT_SEED).into())?;
    no_port_at_bind(&listener)?;
    listener.listen(BACKLOG)?;
    let socket = marked(domain)?;
    no_port_at_bind(&socket)?;
    Ok(Seed {
        listener: listener.into(),
        socket: socket.into(),
    })
}

/// A TCP socket that is transparent, marked as the proxy's, and does not block.
fn marked(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    set_transparent(&socket, domain)?;
    socket.set_mark(MARK_PROXY)?;
    Ok(socket)
}

/// The port comes with the connect, so that one port serves for as many connections as there are destinations.
fn no_port_at_bind(socket: &Socket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
    Ok(setsockopt(socket, IpBindAddressNoPort, &true)?)
}

fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        // An IPv6 socket carries IPv4 connections too, each under its own family's option.
        socket.set_ip_transparent_v6(true)?;
    }
    socket.set_ip_transparent_v4(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel is not asked of it what is asked of sockets: to another kind of file the same number may mean something else.
    #[test]
    fn descriptors_that_are_no_sockets_are_refused_unasked() {
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("opened"));
        let error = Listeners::adopt(std::iter::repeat_with(file).take(5).collect(), 1).expect_err("refused");
        let AdoptError::Socket {
            socket: "listener 15001",
            why: WrongSocket::Unknown(why),
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(Errno::from_io_error(&why), Some(Errno::NOTSOCK));
    }
}
