//! The TCP sockets of a network namespace, as the kernel lists them (`linux/inet_diag.h`).

use super::NetlinkError;
use super::message::{Attributes, DUMP, Message, attributes};
use super::socket::NetlinkSocket;
use ambit_wire::names::{MARK_PROXY, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, PORT_SEED};
use rustix::io::Errno;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const SYN_RECEIVED: u8 = 3;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
/// The state by which request sockets are asked for; they are listed as [`SYN_RECEIVED`].
const NEW_SYN_RECEIVED: u8 = 12;
/// All but closed and listening sockets.
const CONNECTED: u32 = 0xffff & !(1 << 7) & !(1 << LISTEN) & !1;
const WAITING: u32 = 1 << LISTEN | 1 << SYN_RECEIVED | 1 << NEW_SYN_RECEIVED;
/// Where an `inet_diag_msg` has its queues.
const RECEIVE_QUEUE: usize = 56;
const UNACKNOWLEDGED: usize = 60;
/// Length of `inet_diag_msg`.
const FIXED: usize = 72;
const ATTRIBUTE_MARK: u16 = 15;

/// The two ends of a connection, as one of its sockets has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub(super) near: SocketAddr,
    pub(super) far: SocketAddr,
}

/// Far end and near port: what the pod's sets know a connection by.
pub(super) type Known = (SocketAddr, u16);

impl Connection {
    pub(super) fn known(&self) -> Known {
        (self.far, self.near.port())
    }

    /// As its other end has it.
    fn mirrored(self) -> Self {
        Self {
            near: self.far,
            far: self.near,
        }
    }
}

/// Connections in the calling thread's namespace whose other end is not in it, but for those that have ended and only wait out their time:
/// nothing is to come of them. A redirected one has both ends in the pod: its application's and the proxy's.
pub(super) fn outer_connections() -> Result<Vec<Connection>, NetlinkError> {
    let (all, mut open) = connections()?;
    open.retain(|connection| !all.contains(&connection.mirrored()));
    Ok(open.into_iter().collect())
}

/// The same, wherever their other end is.
pub(super) fn open_connections() -> Result<HashSet<Connection>, NetlinkError> {
    let (_, open) = connections()?;
    Ok(open)
}

/// All there are, and those that have not ended.
fn connections() -> Result<(HashSet<Connection>, HashSet<Connection>), NetlinkError> {
    let (mut all, mut open) = (HashSet::new(), HashSet::new());
    list(CONNECTED, |payload| {
        all.extend(connection(payload));
        if payload.get(1) != Some(&TIME_WAIT) {
            open.extend(connection(payload));
        }
    })?;
    Ok((all, open))
}

/// Redirected connections in the calling thread's namespace on which the proxy's end has sent what the application has not
/// acknowledged.
pub fn undelivered_connections() -> Result<usize, NetlinkError> {
    let (mut all, mut sending) = (HashSet::new(), vec![]);
    list(CONNECTED, |payload| {
        all.extend(connection(payload));
        if is_proxys(payload) && number(payload, UNACKNOWLEDGED).is_some_and(|bytes| bytes > 0) {
            sending.extend(connection(payload));
        }
    })?;
    let redirected = |connection: &&Connection| all.contains(&connection.mirrored());
    Ok(sending.iter().filter(redirected).count())
}

/// Connections to the proxy's listeners in the calling thread's namespace that are in their handshake or wait to be accepted.
pub fn waiting_connections() -> Result<u64, NetlinkError> {
    let mut waiting = 0;
    list(WAITING, |payload| {
        waiting += waiting_in(payload).unwrap_or_default();
    })?;
    Ok(waiting)
}

/// A handshake is known by the mark alone, which it has from its listener: its address is the one that the client wanted.
fn waiting_in(payload: &[u8]) -> Option<u64> {
    if !is_proxys(payload) {
        return None;
    }
    let port = u16::from_be_bytes(payload.get(4..6)?.try_into().ok()?);
    match *payload.get(1)? {
        SYN_RECEIVED if port != PORT_SEED => Some(1),
        // A listener's receive queue is its accept queue.
        LISTEN if [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE].contains(&port) => {
            number(payload, RECEIVE_QUEUE).map(u64::from)
        }
        _ => None,
    }
}

fn is_proxys(payload: &[u8]) -> bool {
    attributes(payload.get(FIXED..).unwrap_or_default())
        .any(|(kind, value)| kind == ATTRIBUTE_MARK && value == MARK_PROXY.to_ne_bytes())
}

fn number(payload: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(at..at + 4)?.try_into().ok()?))
}

/// Gives the `inet_diag_msg` of each TCP socket in one of `states` to `each`.
fn list(states: u32, mut each: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
    for family in [AF_INET, AF_INET6] {
        let mut fixed = vec![family, TCP, 0, 0];
        fixed.extend_from_slice(&states.to_ne_bytes());
        // Any addresses and ports.
        fixed.resize(56, 0);
        let request = Message::new(
            SOCK_DIAG_BY_FAMILY,
            DUMP,
            &fixed,
            Attributes::new(),
            "list TCP sockets",
        );
        match NetlinkSocket::sock_diag()?.dump_each(&request, SOCK_DIAG_BY_FAMILY, &mut each) {
            // A kernel without IPv6.
            Err(e) if family == AF_INET6 && e.errno() == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Of an `inet_diag_msg`: family, state, timer, retransmissions; ports, then addresses of sixteen bytes.
fn connection(payload: &[u8]) -> Option<Connection> {
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        let bytes: [u8; 16] = payload.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(match payload.first()? {
            &AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        })
    };
    Some(Connection {
        near: SocketAddr::new(address(8)?, port(4)?),
        far: SocketAddr::new(address(24)?, port(6)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read_and_mapped_addresses_are_ipv4() {
        let message = |family: u8, near: [u8; 16], far: [u8; 16]| {
            let mut payload = vec![family, 1, 0, 0, 0x1f, 0x90, 0x01, 0xbb];
            payload.extend_from_slice(&near);
            payload.extend_from_slice(&far);
            payload
        };
        let four = |bytes: [u8; 4]| {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&bytes);
            padded
        };
        let mapped = |bytes: [u8; 4]| Ipv4Addr::from(bytes).to_ipv6_mapped().octets();
        let expected = Connection {
            near: "10.0.0.1:8080".parse().unwrap(),
            far: "10.0.0.2:443".parse().unwrap(),
        };
        let near = [10, 0, 0, 1];
        let far = [10, 0, 0, 2];
        assert_eq!(connection(&message(2, four(near), four(far))), Some(expected));
        assert_eq!(
            connection(&message(10, mapped(near), mapped(far))),
            Some(expected)
        );
        assert_eq!(connection(&message(2, four(near), four(far))[..30]), None);
    }
}
