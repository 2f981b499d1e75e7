//! Notifications of changes in a network namespace.

use super::NetlinkError;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES`.
const GROUP_NFTABLES: u32 = 1 << 6;
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_ROUTE`, `RTNLGRP_IPV6_RULE`.
const GROUPS_ROUTE: u32 = 1 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18;

/// Sockets on which the kernel notifies of each change to nf_tables, rules, routes and links in the calling thread's namespace. They keep
/// the namespace alive.
///
/// # Errors
/// The kernel does not give them.
pub fn watch_changes() -> Result<[OwnedFd; 2], NetlinkError> {
    Ok([
        listen(Some(netlink::NETFILTER), GROUP_NFTABLES)?,
        listen(None, GROUPS_ROUTE)?,
    ])
}

fn listen(protocol: Option<Protocol>, groups: u32) -> Result<OwnedFd, NetlinkError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(fd)
    };
    open().map_err(|errno| NetlinkError::Socket {
        action: "listen for changes",
        errno,
    })
}

/// The sockets of [`watch_changes`] within a Tokio runtime.
#[derive(Debug)]
pub struct Changes([AsyncFd<OwnedFd>; 2]);

impl Changes {
    /// Takes the sockets.
    ///
    /// # Errors
    /// The runtime does not take them.
    pub fn new(sockets: [OwnedFd; 2]) -> Result<Self, NetlinkError> {
        let [netfilter, route] = sockets.map(|fd| {
            // SAFETY: an OwnedFd keeps its one descriptor open for as long as it lives, and the AsyncFd owns it.
            #[allow(unsafe_code)]
            let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
            watched.map_err(|_| NetlinkError::Answer("the runtime does not take a socket"))
        });
        Ok(Self([netfilter?, route?]))
    }

    /// Ends after a change; what is notified until then counts as one.
    pub async fn changed(&self) {
        let [netfilter, route] = &self.0;
        tokio::select! {
            () = readable(netfilter) => {}
            () = readable(route) => {}
        }
        self.0.iter().for_each(|socket| drain(socket.get_ref()));
    }
}

async fn readable(socket: &AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return std::future::pending().await;
        };
        let peek = ready.try_io(
            |fd| match rustix::net::recv(fd.get_ref(), &mut [0; 1], RecvFlags::PEEK) {
                // More was notified than the socket holds.
                Ok(_) | Err(Errno::NOBUFS) => Ok(()),
                Err(errno) => Err(io::Error::from(errno)),
            },
        );
        match peek {
            Ok(Ok(())) => return,
            Ok(Err(_)) => return std::future::pending().await,
            Err(_would_block) => {}
        }
    }
}

fn drain(socket: &OwnedFd) {
    // What does not fit is cut off: nobody reads it.
    while matches!(
        rustix::net::recv(socket, &mut [0; 64], RecvFlags::DONTWAIT),
        Ok(_) | Err(Errno::NOBUFS | Errno::INTR)
    ) {}
}
