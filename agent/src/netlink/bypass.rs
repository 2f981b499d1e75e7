//! Connections from before a capture, which go their own way until they end.
//!
//! Once one has ended it must be forgotten: the proxy connects to the application from clients' addresses, and where it gets the port of
//! such a connection, the application's answer would go to the client.

use super::NetlinkError;
use super::diag::{Known, open_connections};
use super::expr::IpVersion::{self, V4, V6};
use super::message::attributes;
use super::socket::NetlinkSocket;
use super::table::{NEWSETELEM, TABLE, transaction};
use rustix::io::Errno;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// Length of `nfgenmsg`.
const HEADER: usize = 4;
const LIST: u16 = 3;
const KEY: u16 = 1;
const VALUE: u16 = 1;
/// Deleted at once; one that has gone by itself keeps the others of its transaction.
const TOGETHER: usize = 256;
/// In none of so many listings is what has ended.
const LISTINGS: usize = 2;

/// Sets of connections by IP version: those that go their own way; those that began while the rules came; and those, for a moment,
/// of packets that belong to none.
pub(super) const SETS: [(IpVersion, [&str; 3]); 2] = [
    (V4, ["bypass", "taken", "stray"]),
    (V6, ["bypass6", "taken6", "stray6"]),
];

/// Forgets the connections from before the capture that have ended; returns how many. To be called while new ones are redirected.
///
/// One too many that is noted costs the proxy another port, one too few breaks a connection. So all sockets count, though one may be of the
/// proxy's own attempt at the port of such a connection.
pub fn forget_ended_connections() -> Result<usize, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    let mut noted = vec![];
    for (version, [bypass, _, _]) in SETS {
        let mut of_version = HashSet::new();
        socket.dump_each(&TABLE.list_elements(bypass), NEWSETELEM, |payload| {
            of_version.extend(elements(payload, version));
        })?;
        noted.push((bypass, of_version));
    }
    if noted.iter().all(|(_, connections)| connections.is_empty()) {
        return Ok(0);
    }
    // After the sets: nothing has been added to them since. A listing is not of one moment, and may miss a socket while others come and go.
    for _ in 0..LISTINGS {
        for connection in open_connections()? {
            for (_, ended) in &mut noted {
                ended.remove(&connection.known());
            }
        }
    }
    let mut forgotten = 0;
    for (bypass, ended) in noted {
        let ended: Vec<Known> = ended.into_iter().collect();
        forgotten += ended.len();
        for some in ended.chunks(TOGETHER) {
            forget(&mut socket, bypass, some)?;
        }
    }
    Ok(forgotten)
}

fn forget(socket: &mut NetlinkSocket, set: &'static str, some: &[Known]) -> Result<(), NetlinkError> {
    let mut delete = |some: &[Known]| {
        let messages = TABLE.delete_connections(set, some).collect();
        match socket.transact(&transaction(messages)) {
            Err(e) if e.errno() == Some(Errno::NOENT) => Ok(false),
            other => other.map(|()| true),
        }
    };
    if !delete(some)? {
        // A new connection with the same ends has deleted one of them.
        for one in some.chunks(1) {
            delete(one)?;
        }
    }
    Ok(())
}

/// The connections in one message of a listing.
fn elements(payload: &[u8], version: IpVersion) -> Vec<Known> {
    let all = payload.get(HEADER..).unwrap_or_default();
    let lists = attributes(all).filter(|(kind, _)| *kind == LIST);
    lists
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| {
            let (_, key) = attributes(element).find(|(kind, _)| *kind == KEY)?;
            let (_, value) = attributes(key).find(|(kind, _)| *kind == VALUE)?;
            parse(value, version)
        })
        .collect()
}

/// Each part fills registers of four bytes.
fn parse(key: &[u8], version: IpVersion) -> Option<Known> {
    let (ip, ports) = match version {
        IpVersion::V4 => {
            let (ip, ports) = key.split_first_chunk::<4>()?;
            (IpAddr::from(*ip), ports)
        }
        IpVersion::V6 => {
            let (ip, ports) = key.split_first_chunk::<16>()?;
            (IpAddr::from(*ip), ports)
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes(ports.get(at..at + 2)?.try_into().ok()?));
    Some((SocketAddr::new(ip, port(0)?), port(4)?))
}
