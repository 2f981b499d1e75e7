//! Probes on the node: the table `ip ambit_node`.
//!
//! What root on this node (the kubelet) sends to a declared probe port of a captured pod gets the source
//! [`PROBE_SOURCE`], which the pod's rules let pass; nobody else can use that address, since forwarded packets with it are dropped.

use super::NetlinkError;
use super::expr::Rule;
use super::socket::NetlinkSocket;
use super::table::{Family, Hook, Table, transaction};
use ambit_wire::names::PROBE_SOURCE;
use std::net::SocketAddrV4;

const TABLE: Table = Table {
    family: Family::Ip,
    name: "ambit_node",
};
const SET: &str = "probes";
const SET_ID: u32 = 1;
/// Before kube-proxy's masquerade, which sits at `srcnat` (100).
const PRIORITY_BEFORE_SRCNAT: i32 = 95;
const PRIORITY_BEFORE_FILTER: i32 = -5;

/// Puts the table in force with these probes, in place of one that is there already, in one transaction.
pub fn install_node_table(probes: &[SocketAddrV4]) -> Result<(), NetlinkError> {
    let snat = Rule::new()
        .ip_daddr_tcp_dport_in(SET, SET_ID)
        .ct_status_not_dnat()
        .socket_uid_is(0)
        .fib_saddr_is_local()
        .snat_to(PROBE_SOURCE);
    let mut messages = vec![
        TABLE.create(),
        TABLE.delete(),
        TABLE.create(),
        TABLE.chain("postrouting", "nat", Hook::PostRouting, PRIORITY_BEFORE_SRCNAT),
        TABLE.chain("guard", "filter", Hook::Forward, PRIORITY_BEFORE_FILTER),
        TABLE.address_port_set(SET, SET_ID),
        TABLE.rule("postrouting", "probes snat", snat),
        TABLE.rule(
            "guard",
            "probe source drop",
            Rule::new().ip_saddr_is(PROBE_SOURCE).drop(),
        ),
    ];
    messages.extend(TABLE.add_elements(SET, probes));
    NetlinkSocket::netfilter()?.transact(&transaction(messages))
}

/// Replaces the probes in one transaction; the table must be in force.
pub fn set_probes(probes: &[SocketAddrV4]) -> Result<(), NetlinkError> {
    let mut messages = vec![TABLE.flush_set(SET)];
    messages.extend(TABLE.add_elements(SET, probes));
    NetlinkSocket::netfilter()?.transact(&transaction(messages))
}

/// Removes the table, if it is there.
pub fn remove_node_table() -> Result<(), NetlinkError> {
    NetlinkSocket::netfilter()?.transact(&transaction(vec![TABLE.create(), TABLE.delete()]))
}
