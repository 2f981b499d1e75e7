//! Redirection in a pod: the table `inet ambit`.

use super::NetlinkError;
use super::expr::Rule;
use super::message::Message;
use super::socket::NetlinkSocket;
use super::table::{Family, Hook, NEWRULE, Table, transaction};
use ambit_wire::names::{MARK_PROXY, MARK_REPLY, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, PROBE_SOURCE};
use rustix::io::Errno;
use std::net::SocketAddr;

pub(super) const TABLE: Table = Table {
    family: Family::Inet,
    name: "ambit",
};
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;

/// What of the table stands in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodTable {
    /// Nothing of ours.
    Absent,
    /// New connections are redirected.
    Redirecting,
    /// The nat chains are empty: earlier connections stay redirected, new ones are not.
    Draining,
}

/// Puts the table in force, in place of one that is there already, in one transaction. Only the proxy's own packets reach the
/// `seeds`, the addresses of the seed listeners.
pub fn install_pod_table(seeds: &[SocketAddr]) -> Result<(), NetlinkError> {
    let mut messages = vec![TABLE.create(), TABLE.delete(), TABLE.create()];
    messages.extend(chains());
    messages.extend(rules());
    messages.extend(seeds.iter().map(|seed| {
        let rule = Rule::new()
            .inet_daddr_is(seed.ip())
            .tcp_dport_is(seed.port())
            .mark_is_not(MARK_PROXY)
            .drop();
        TABLE.rule("seed", "daddr tcp dport mark != 0x539 drop", rule)
    }));
    NetlinkSocket::netfilter()?.transact(&transaction(messages))
}

/// Empties the nat chains: no further connection is redirected, earlier ones are still translated.
pub fn drain_pod_table() -> Result<(), NetlinkError> {
    match NetlinkSocket::netfilter()?.transact(&transaction(vec![TABLE.flush("pre"), TABLE.flush("out")])) {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes the table. Connections that are still redirected break.
pub fn remove_pod_table() -> Result<(), NetlinkError> {
    // Created first so that removing what is not there is no error.
    NetlinkSocket::netfilter()?.transact(&transaction(vec![TABLE.create(), TABLE.delete()]))
}

/// Looks what is in force.
pub fn pod_table() -> Result<PodTable, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    match socket.transact(&[TABLE.get().acknowledged()]) {
        Err(e) if e.errno() == Some(Errno::NOENT) => return Ok(PodTable::Absent),
        other => other?,
    }
    let rules = socket.dump(&TABLE.list_rules("pre"), NEWRULE)?;
    Ok(if rules == 0 {
        PodTable::Draining
    } else {
        PodTable::Redirecting
    })
}

fn chains() -> [Message; 5] {
    [
        TABLE.chain("pre", "nat", Hook::PreRouting, PRIORITY_DSTNAT),
        TABLE.chain("out", "nat", Hook::Output, PRIORITY_DSTNAT),
        TABLE.chain("mrk", "route", Hook::Output, PRIORITY_MANGLE),
        TABLE.chain("nospoof", "filter", Hook::Output, PRIORITY_FILTER),
        TABLE.chain("seed", "filter", Hook::Input, PRIORITY_FILTER),
    ]
}

fn rules() -> Vec<Message> {
    let rule = |chain, text, rule| TABLE.rule(chain, text, rule);
    vec![
        rule("pre", "iifname lo return", Rule::new().iifname_is("lo").back()),
        rule("pre", "mark return", Rule::new().mark_is(MARK_PROXY).back()),
        rule(
            "pre",
            "tcp dport 15008 return",
            Rule::new().tcp_dport_is(PORT_HBONE).back(),
        ),
        rule(
            "pre",
            "probes return",
            Rule::new().inet_ip_saddr_is(PROBE_SOURCE).back(),
        ),
        // Conntrack begins with these rules: without the match on SYN it would take running connections up in mid-stream.
        rule(
            "pre",
            "tcp syn fib daddr type local redirect",
            Rule::new()
                .tcp_syn()
                .fib_daddr_is_local()
                .counter()
                .redirect_to(PORT_INBOUND),
        ),
        rule("out", "mark return", Rule::new().mark_is(MARK_PROXY).back()),
        rule(
            "out",
            "fib daddr type local return",
            Rule::new().fib_daddr_is_local().back(),
        ),
        rule(
            "out",
            "tcp syn redirect",
            Rule::new().tcp_syn().counter().redirect_to(PORT_OUTBOUND),
        ),
        // The proxy connects to the application from the client's address; the answers must come back to the proxy.
        rule(
            "mrk",
            "ct mark set",
            Rule::new()
                .mark_is(MARK_PROXY)
                .ct_state_new()
                .set_ct_mark(MARK_REPLY),
        ),
        rule(
            "mrk",
            "mark set",
            Rule::new()
                .ct_direction_reply()
                .ct_mark_is(MARK_REPLY)
                .set_mark(MARK_REPLY),
        ),
        // A proxy that was broken into must not send from foreign addresses to the world.
        rule(
            "nospoof",
            "mark fib saddr type != local drop",
            Rule::new()
                .mark_is(MARK_PROXY)
                .oifname_is_not("lo")
                .fib_saddr_is_not_local()
                .counter()
                .drop(),
        ),
    ]
}
