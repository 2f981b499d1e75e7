//! The way over the loopback of what is redirected: a rule on the mark and a table that calls every address local.

use super::NetlinkError;
use super::message::{Attributes, CREATE, EXCL, Message, REPLACE};
use super::socket::NetlinkSocket;
use ambit_wire::names::{MARK_REDIRECTED, ROUTE_TABLE};
use rustix::io::Errno;

const NEWLINK: u16 = 16;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TABLE_UNSPEC: u8 = 0;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
const ACTION_TO_TABLE: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
/// Just before the main table: where `ip rule add` puts the first rule of a namespace.
const PRIORITY: u32 = 32765;

/// Sets `lo` up. A container runtime may run its loopback plugin beside ours, and a route needs the device up.
pub fn raise_loopback() -> Result<(), NetlinkError> {
    let mut link = vec![0; 4];
    link.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    link.extend_from_slice(&IFF_UP.to_ne_bytes());
    link.extend_from_slice(&IFF_UP.to_ne_bytes());
    let message = Message::new(NEWLINK, 0, &link, Attributes::new(), "set lo up");
    NetlinkSocket::route()?.transact(&[message.acknowledged()])
}

/// `ip rule add fwmark 0x77 lookup 100` and `ip route replace local default dev lo table 100`, for IPv4 and, where the
/// namespace has it, IPv6. What is there already is left. Whether something was missing.
pub(super) fn add_redirection_route() -> Result<bool, NetlinkError> {
    let mut missing = false;
    each_family(|socket, family| {
        let mut add = |message| match socket.transact(&[message]) {
            Err(e) if e.errno() == Some(Errno::EXIST) => Ok(false),
            other => other.map(|()| true),
        };
        let step = "add the rule for redirected packets";
        missing |= add(rule(family, NEWRULE, CREATE | EXCL, step))?;
        let step = "add the route for redirected packets";
        if add(route(family, NEWROUTE, CREATE | EXCL, step))? {
            missing = true;
            return Ok(());
        }
        // It may lead somewhere else.
        socket.transact(&[route(family, NEWROUTE, CREATE | REPLACE, step)])
    })?;
    Ok(missing)
}

/// Removes the rule and the route; what is not there is no error.
pub fn remove_redirection_route() -> Result<(), NetlinkError> {
    each_family(|socket, family| {
        for message in [
            rule(family, DELRULE, 0, "remove the rule for redirected packets"),
            route(family, DELROUTE, 0, "remove the route for redirected packets"),
        ] {
            match socket.transact(&[message]) {
                Err(e) if matches!(e.errno(), Some(Errno::NOENT | Errno::SRCH)) => {}
                other => other?,
            }
        }
        Ok(())
    })
}

fn each_family(
    mut act: impl FnMut(&mut NetlinkSocket, u8) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    act(&mut socket, AF_INET)?;
    match act(&mut socket, AF_INET6) {
        // A kernel or a namespace without IPv6 has no IPv6 connection to redirect.
        Err(e) if e.errno().is_some_and(no_ipv6) => {
            tracing::debug!(error = %e, "no IPv6 route in this network namespace");
            Ok(())
        }
        other => other,
    }
}

fn no_ipv6(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NODEV | Errno::ACCESS
    )
}

fn rule(family: u8, kind: u16, flags: u16, step: &str) -> Message {
    let fixed = [family, 0, 0, 0, TABLE_UNSPEC, 0, 0, ACTION_TO_TABLE, 0, 0, 0, 0];
    let attributes = Attributes::new()
        .ne32(FRA_PRIORITY, PRIORITY)
        .ne32(FRA_FWMARK, MARK_REDIRECTED)
        .ne32(FRA_TABLE, ROUTE_TABLE);
    Message::new(kind, flags, &fixed, attributes, step).acknowledged()
}

fn route(family: u8, kind: u16, flags: u16, step: &str) -> Message {
    let fixed = [
        family,
        0,
        0,
        0,
        TABLE_UNSPEC,
        PROTOCOL_STATIC,
        SCOPE_HOST,
        TYPE_LOCAL,
        0,
        0,
        0,
        0,
    ];
    let attributes = Attributes::new()
        .ne32(RTA_TABLE, ROUTE_TABLE)
        .ne32(RTA_OIF, LOOPBACK_INDEX);
    Message::new(kind, flags, &fixed, attributes, step).acknowledged()
}
