//! The sockets that a ztunnel uses in a pod. They are made here because making them takes privileges; using them takes none.

use super::{NetnsError, socket_netns_inode};
use ambit_wire::names::{MARK_PROXY, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections that wait while no proxy accepts (the kernel caps it at `net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// The order in which the broker protocol passes them.
const PORTS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE];

/// A pod's three listening sockets. Dropping the last copy of them refuses new connections.
#[derive(Debug)]
pub struct Listeners {
    sockets: [OwnedFd; 3],
}

impl Listeners {
    /// The sockets in the protocol's order: 15001, 15006, 15008.
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        self.sockets.each_ref().map(AsFd::as_fd)
    }

    /// Takes sockets over from a proxy, after a look at each: that it belongs to the namespace `inode`, is bound to its port
    /// on every address, and listens. One that was shut down listens again.
    ///
    /// # Errors
    /// A sentence saying which socket is wrong and how.
    pub fn adopt(sockets: Vec<OwnedFd>, inode: u64) -> Result<Self, String> {
        let sockets: [OwnedFd; 3] = sockets
            .try_into()
            .map_err(|s: Vec<_>| format!("{} descriptors in place of three", s.len()))?;
        for (socket, port) in sockets.iter().zip(PORTS) {
            check_listener(socket.as_fd(), port, inode).map_err(|why| format!("listener {port}: {why}"))?;
        }
        Ok(Self { sockets })
    }

    /// Sockets that listen somewhere, where a test needs some.
    #[cfg(test)]
    #[allow(clippy::expect_used, reason = "a test that cannot be set up fails")]
    pub(crate) fn anywhere() -> Self {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound").into();
        Self {
            sockets: [listen(), listen(), listen()],
        }
    }

    /// Whether every socket listens.
    pub fn are_listening(&self) -> bool {
        let listens = |socket| SockRef::from(socket).is_listener().unwrap_or(false);
        self.sockets.iter().all(listens)
    }

    /// Makes the sockets listen again, should a proxy have shut one down.
    pub fn repair(&self) -> io::Result<()> {
        self.sockets
            .iter()
            .try_for_each(|socket| SockRef::from(socket).listen(BACKLOG))
    }
}

fn check_listener(socket: BorrowedFd<'_>, port: u16, inode: u64) -> Result<(), String> {
    let actual = socket_netns_inode(socket).map_err(|e| format!("its network namespace is unknown: {e}"))?;
    if actual != inode {
        return Err(format!("it belongs to network namespace {actual}, not {inode}"));
    }
    let socket = SockRef::from(&socket);
    if socket.r#type().map_err(|e| e.to_string())? != Type::STREAM {
        return Err("it is not a stream socket".to_owned());
    }
    let address = socket.local_addr().map_err(|e| e.to_string())?.as_socket();
    let address = address.ok_or("it is not an IP socket")?;
    if address.port() != port || !address.ip().is_unspecified() {
        return Err(format!("it is bound to {address}"));
    }
    if !socket.is_listener().map_err(|e| e.to_string())? {
        // A shut-down listener keeps its port; so does one that was never listening, which this makes what it should be.
        socket
            .listen(BACKLOG)
            .map_err(|e| format!("it does not listen and cannot: {e}"))?;
        tracing::warn!(
            port,
            netns_inode = inode,
            "a listener had been shut down; it listens again"
        );
    }
    Ok(())
}

/// Makes the three listeners in the calling thread's namespace: on every address, for IPv6 too where there is any.
///
/// # Errors
/// [`NetnsError::PortInUse`] when something listens already: the pod's application, or a proxy that holds earlier sockets.
pub fn make_listeners() -> Result<Listeners, NetnsError> {
    let [outbound, inbound, hbone] = PORTS;
    Ok(Listeners {
        sockets: [
            make_listener(outbound)?,
            make_listener(inbound)?,
            make_listener(hbone)?,
        ],
    })
}

fn make_listener(port: u16) -> Result<OwnedFd, NetnsError> {
    match listen_on(port, Domain::IPV6) {
        Err(e) if no_ipv6(&e) => listen_on(port, Domain::IPV4),
        other => other,
    }
    .map(OwnedFd::from)
    .map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::ADDRINUSE) => NetnsError::PortInUse { port },
        _ => NetnsError::Socket {
            action: format!("listen on port {port}"),
            source,
        },
    })
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
    if port == PORT_INBOUND {
        set_transparent(&socket, domain)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Makes `count` unconnected TCP sockets in the calling thread's namespace: transparent, marked as the proxy's, non-blocking.
pub fn make_outbound_sockets(ipv6: bool, count: usize) -> Result<Vec<OwnedFd>, NetnsError> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let make = || -> io::Result<OwnedFd> {
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        set_transparent(&socket, domain)?;
        socket.set_mark(MARK_PROXY)?;
        Ok(socket.into())
    };
    (0..count)
        .map(|_| make())
        .collect::<io::Result<_>>()
        .map_err(|source| NetnsError::Socket {
            action: "make an outbound socket".to_owned(),
            source,
        })
}

fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        // An IPv6 socket carries IPv4 connections too, each under its own family's option.
        socket.set_ip_transparent_v6(true)?;
    }
    socket.set_ip_transparent_v4(true)
}
