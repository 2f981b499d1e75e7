//! Redirection in a pod: the table `inet ambit`, without NAT and without conntrack.
//!
//! All that the application sends outside comes back over the loopback, by a mark and a routing table that calls every address
//! local. There it meets, by its true addresses, the proxy's socket; only the first packet of a connection is handed to a listener
//! (`tproxy`). What a connection from before the capture has is noted in the set `bypass` and goes its own way.

use super::NetlinkError;
use super::bypass::{SETS, forget_ended_connections};
use super::diag::{Connection, Known, outer_connections};
use super::expr::IpVersion::V4;
use super::expr::Packet::{Received, Sent};
use super::expr::Rule;
use super::message::Message;
use super::route::{add_redirection_route, raise_loopback};
use super::socket::NetlinkSocket;
use super::table::{Hook, NEWRULE, TABLE, transaction};
use ambit_wire::names::{
    MARK_PROXY, MARK_REDIRECTED, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, PORT_SEED, PROBE_SOURCE,
};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;
const CHAINS: [&str; 5] = ["pre", "note", "out", "nospoof", "seed"];
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// How long the kernel has to answer a packet that belongs to no connection.
const STRAY_TIME: Duration = Duration::from_secs(1);

/// What of the table stands in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodTable {
    /// Nothing of ours.
    Absent,
    /// New connections are redirected; which were open before is not noted yet. An agent ended, or failed, half-way.
    Joining,
    /// New connections are redirected.
    Redirecting,
    /// Earlier connections stay redirected, new ones are not.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// New connections are redirected and noted in `taken`; all else passes.
    Joining,
    /// All but what is in `bypass` is redirected.
    Redirecting,
    /// New connections are noted in `bypass` and pass; all else is as before.
    Leaving,
}

/// Puts the redirection in force: loopback, route and table. Connections that are open stay what they are, those from before a capture as
/// well as those that were opened while a part of it was missing.
pub fn install_redirection() -> Result<(), NetlinkError> {
    raise_loopback()?;
    let table = pod_table()?;
    // What is marked without the route goes out directly.
    let route_was_missing = add_redirection_route()?;
    if matches!(table, PodTable::Redirecting | PodTable::Draining) && !route_was_missing {
        set_rules(Phase::Redirecting, &[])?;
        // While the pod was leaving, all that began was noted.
        return forget_ended_connections().map(drop);
    }
    set_rules(Phase::Joining, &[])?;
    // What began since then is in `taken`, whatever is listed now.
    let open = outer_connections()?;
    set_rules(Phase::Redirecting, &open)
}

/// Redirects no further connection; earlier ones stay redirected.
pub fn drain_pod_table() -> Result<(), NetlinkError> {
    match pod_table()? {
        PodTable::Joining => set_rules(Phase::Leaving, &outer_connections()?),
        PodTable::Redirecting => set_rules(Phase::Leaving, &[]),
        PodTable::Absent | PodTable::Draining => Ok(()),
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
    let mut rules = |chain| match socket.dump(&TABLE.list_rules(chain), NEWRULE) {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(0),
        other => other,
    };
    Ok(match (rules("out")?, rules("pre")?, rules("note")?) {
        // Somebody has emptied it.
        (0, ..) => PodTable::Absent,
        (_, 0, _) => PodTable::Draining,
        (.., 0) => PodTable::Joining,
        _ => PodTable::Redirecting,
    })
}

/// One transaction. Sets that are there keep what they have.
fn set_rules(phase: Phase, open: &[Connection]) -> Result<(), NetlinkError> {
    let mut messages = vec![TABLE.create()];
    for (version, [bypass, taken, stray]) in SETS {
        messages.push(TABLE.connection_set(bypass, version, None));
        messages.push(TABLE.connection_set(taken, version, None));
        messages.push(TABLE.connection_set(stray, version, Some(STRAY_TIME)));
        let of_version: Vec<Known> = open
            .iter()
            .filter(|connection| connection.far.is_ipv4() == (version == V4))
            .map(Connection::known)
            .collect();
        messages.extend(TABLE.add_connections(bypass, &of_version));
    }
    messages.extend([
        TABLE.chain("pre", "filter", Hook::PreRouting, PRIORITY_MANGLE),
        TABLE.chain("note", "filter", Hook::PreRouting, PRIORITY_MANGLE - 1),
        TABLE.chain("out", "route", Hook::Output, PRIORITY_MANGLE),
        TABLE.chain("nospoof", "filter", Hook::Output, PRIORITY_FILTER),
        TABLE.chain("seed", "filter", Hook::Input, PRIORITY_FILTER),
    ]);
    messages.extend(CHAINS.map(|chain| TABLE.flush(chain)));
    if phase != Phase::Leaving {
        messages.extend(chain("pre", pre()));
    }
    if phase != Phase::Joining {
        messages.extend(chain("note", note(phase)));
    }
    messages.extend(chain("out", out(phase)));
    messages.extend(chain("nospoof", vec![nospoof()]));
    messages.extend(chain("seed", LOOPBACKS.map(seed).into()));
    match NetlinkSocket::netfilter()?.transact(&transaction(messages)) {
        Err(NetlinkError::Refused { step, errno }) if errno == Errno::NOENT && step.contains("tproxy") => {
            Err(NetlinkError::NoTproxy)
        }
        other => other,
    }
}

fn chain(name: &'static str, rules: Vec<(&'static str, Rule)>) -> impl Iterator<Item = Message> {
    rules
        .into_iter()
        .map(move |(text, rule)| TABLE.rule(name, text, rule))
}

/// First packets of connections, handed to the proxy's listeners.
fn pre() -> Vec<(&'static str, Rule)> {
    vec![
        ("tcp not syn return", Rule::new().tcp_not_syn().back()),
        ("not tcp return", Rule::new().not_tcp().back()),
        (
            "iifname lo mark 0x77 tproxy to :15001",
            Rule::new()
                .iifname_is("lo")
                .mark_is(MARK_REDIRECTED)
                .tproxy_to(PORT_OUTBOUND)
                .accept(),
        ),
        ("iifname lo return", Rule::new().iifname_is("lo").back()),
        (
            "tcp dport 15008 return",
            Rule::new().tcp_dport_is(PORT_HBONE).back(),
        ),
        ("probes return", Rule::new().inet_ip_saddr_is(PROBE_SOURCE).back()),
        (
            "fib daddr type local tproxy to :15006",
            Rule::new().fib_daddr_is_local().tproxy_to(PORT_INBOUND).accept(),
        ),
    ]
}

/// What is noted of packets from outside.
fn note(phase: Phase) -> Vec<(&'static str, Rule)> {
    let mut rules = vec![
        ("not tcp return", Rule::new().not_tcp().back()),
        ("iifname lo return", Rule::new().iifname_is("lo").back()),
    ];
    for (version, [bypass, _, _]) in SETS {
        let syn = Rule::new().tcp_syn().connection(version, Received);
        rules.push(match phase {
            Phase::Leaving => ("tcp syn add @bypass", syn.add_to(bypass)),
            // The one that had these addresses before has ended.
            _ => ("tcp syn delete @bypass", syn.delete_from(bypass)),
        });
    }
    rules.push(("tcp syn return", Rule::new().tcp_syn().back()));
    rules.push(("socket return", Rule::new().has_bound_socket().back()));
    for (version, [_, _, stray]) in SETS {
        let packet = Rule::new().connection(version, Received);
        rules.push(("add @stray", packet.add_to(stray)));
    }
    rules
}

/// Marks what is redirected.
fn out(phase: Phase) -> Vec<(&'static str, Rule)> {
    let mut rules = vec![("not tcp return", Rule::new().not_tcp().back())];
    if phase == Phase::Joining {
        // Towards the application, from a client's address: the application's answers are to come to the proxy.
        for (version, [_, taken, _]) in SETS {
            let syn = Rule::new().mark_is(MARK_PROXY).tcp_syn();
            rules.push((
                "mark tcp syn add @taken",
                syn.connection(version, Received).add_to(taken),
            ));
        }
    }
    rules.extend([
        ("mark return", Rule::new().mark_is(MARK_PROXY).back()),
        (
            "fib daddr type local return",
            Rule::new().fib_daddr_is_local().back(),
        ),
        (
            "probes return",
            Rule::new().inet_daddr_is(PROBE_SOURCE.into()).back(),
        ),
    ]);
    for (version, [bypass, taken, stray]) in SETS {
        let sent = || Rule::new().connection(version, Sent);
        let syn = || Rule::new().tcp_syn().connection(version, Sent);
        match phase {
            Phase::Joining => {
                rules.push(("tcp syn add @taken", syn().add_to(taken)));
                rules.push(("not @taken return", sent().outside(taken).back()));
            }
            Phase::Redirecting => {
                rules.push(("tcp syn delete @bypass", syn().delete_from(bypass)));
                let own_way = sent().within(bypass).outside(taken);
                rules.push(("@bypass not @taken return", own_way.back()));
            }
            Phase::Leaving => {
                rules.push(("tcp syn delete @taken", syn().delete_from(taken)));
                rules.push(("tcp syn add @bypass", syn().add_to(bypass)));
                let own_way = sent().within(bypass).outside(taken);
                rules.push(("@bypass not @taken return", own_way.back()));
            }
        }
        // The kernel's answer to a packet that belongs to no connection is for its sender.
        let reset = Rule::new().tcp_rst().connection(version, Sent);
        rules.push(("tcp rst @stray return", reset.within(stray).back()));
    }
    rules.push(("mark set", Rule::new().set_mark(MARK_REDIRECTED)));
    rules
}

/// A proxy that was broken into must not send from foreign addresses to the world.
fn nospoof() -> (&'static str, Rule) {
    let rule = Rule::new()
        .mark_is(MARK_PROXY)
        .oifname_is_not("lo")
        .fib_saddr_is_not_local()
        .counter()
        .drop();
    ("mark fib saddr type != local drop", rule)
}

/// Only the proxy's own packets reach the seed listeners.
fn seed(loopback: IpAddr) -> (&'static str, Rule) {
    let rule = Rule::new()
        .inet_daddr_is(loopback)
        .tcp_dport_is(PORT_SEED)
        .mark_is_not(MARK_PROXY)
        .drop();
    ("daddr tcp dport mark != 0x539 drop", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an agent finds it that was killed while one joined.
    #[test]
    fn joining_half_way_is_seen_and_completed_or_undone() {
        let joined = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let join = || {
                set_rules(Phase::Joining, &[]).unwrap();
                assert_eq!(pod_table().unwrap(), PodTable::Joining);
            };
            raise_loopback().unwrap();
            assert!(add_redirection_route().unwrap());
            assert!(!add_redirection_route().unwrap());
            join();
            drain_pod_table().unwrap();
            assert_eq!(pod_table().unwrap(), PodTable::Draining);
            join();
            install_redirection().unwrap();
            assert_eq!(pod_table().unwrap(), PodTable::Redirecting);
        };
        std::thread::scope(|scope| scope.spawn(joined).join().unwrap());
    }

    /// As many as a busy server has, those counted that wait out their end.
    #[test]
    fn pods_with_very_many_connections_are_captured() {
        let captured = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let far = |number: u32| {
                let [_, a, b, c] = number.to_be_bytes();
                std::net::SocketAddr::from(([10, a, b, c], 40_000))
            };
            let open: Vec<Connection> = (0..40_000)
                .map(|number| Connection {
                    near: std::net::SocketAddr::from(([10, 200, 0, 1], 8080)),
                    far: far(number),
                })
                .collect();
            set_rules(Phase::Joining, &[]).unwrap();
            set_rules(Phase::Redirecting, &open).unwrap();
            assert_eq!(pod_table().unwrap(), PodTable::Redirecting);
        };
        std::thread::scope(|scope| scope.spawn(captured).join().unwrap());
    }
}
