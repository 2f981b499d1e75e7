//! What stands of a pod's redirection, compared with what stood right after it was put in force.
//!
//! The kernel lists a rule in its own words, so its list is compared with an earlier list of the kernel's and not with what was sent.

use super::NetlinkError;
use super::message::{Attributes, DUMP, Message, attributes};
use super::socket::NetlinkSocket;
use super::table::{NEWCHAIN, NEWRULE, NEWTABLE, TABLE};
use ambit_wire::names::ROUTE_TABLE;
use rustix::io::Errno;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `RTA_TABLE` and `FRA_TABLE`.
const ATTRIBUTE_TABLE: u16 = 15;
/// `RTA_CACHEINFO`: how often the route was used.
const ROUTE_CACHEINFO: u16 = 12;
/// Length of `nfgenmsg`.
const NETFILTER_HEADER: usize = 4;
/// Length of `rtmsg` and of `fib_rule_hdr`.
const ROUTE_HEADER: usize = 12;

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// What of the redirection stands in a namespace, in the kernel's words and without what changes by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// Table, chains and rules, in their order.
    table: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
    routes: Vec<Vec<u8>>,
}

impl InForce {
    /// Looks at the calling thread's namespace, in which the redirection was just put in force.
    ///
    /// # Errors
    /// The kernel does not list it, or something else removed it at once.
    pub fn installed() -> Result<Self, NetlinkError> {
        let found = Self::look()?;
        // Listed twice: one list may be of a moment in which something else changed.
        if found.table.is_empty()
            || found.rules.is_empty()
            || found.routes.is_empty()
            || found != Self::look()?
        {
            return Err(NetlinkError::Answer(
                "the rules were changed while they were being installed",
            ));
        }
        Ok(found)
    }

    /// What of this is missing now in the calling thread's namespace. The table is to be as it was; of rules and routes others may
    /// have their own.
    ///
    /// # Errors
    /// The kernel does not list it.
    pub fn missing(&self) -> Result<Vec<&'static str>, NetlinkError> {
        let found = Self::look()?;
        let has_all =
            |expected: &[Vec<u8>], found: &[Vec<u8>]| expected.iter().all(|one| found.contains(one));
        let parts = [
            ("table", self.table == found.table),
            ("rule", has_all(&self.rules, &found.rules)),
            ("route", has_all(&self.routes, &found.routes)),
        ];
        Ok(parts
            .into_iter()
            .filter(|(_, stands)| !stands)
            .map(|(part, _)| part)
            .collect())
    }

    fn look() -> Result<Self, NetlinkError> {
        let mut netfilter = NetlinkSocket::netfilter()?;
        let mut table = vec![];
        for (request, kind, keep) in [
            (TABLE.list(), NEWTABLE, [1, 2].as_slice()),
            (TABLE.list_chains(), NEWCHAIN, &[1, 3, 4, 5, 7]),
            (TABLE.list_all_rules(), NEWRULE, &[1, 2, 4]),
        ] {
            netfilter.dump_each(&request, kind, |payload| {
                table.extend(object_of_table(payload, keep, kind == NEWRULE))
            })?;
        }
        let mut route = NetlinkSocket::route()?;
        let (mut rules, mut routes) = (vec![], vec![]);
        for family in [AF_INET, AF_INET6] {
            list_routes(&mut route, family, RTM_GETRULE, RTM_NEWRULE, &mut rules)?;
            list_routes(&mut route, family, RTM_GETROUTE, RTM_NEWROUTE, &mut routes)?;
        }
        Ok(Self { table, rules, routes })
    }
}

/// The attributes `keep` of an object, if it belongs to our table (whose name is the first attribute of each kind).
fn object_of_table(payload: &[u8], keep: &[u16], is_rule: bool) -> Option<Vec<u8>> {
    let all = payload.get(NETFILTER_HEADER..)?;
    let (_, table) = attributes(all).find(|(kind, _)| *kind == 1)?;
    if table.strip_suffix(&[0]) != Some(TABLE.name.as_bytes()) {
        return None;
    }
    let mut kept: Vec<_> = attributes(all).filter(|(kind, _)| keep.contains(kind)).collect();
    kept.sort_by_key(|(kind, _)| *kind);
    let kept = kept.into_iter().fold(Attributes::new(), |kept, (kind, value)| {
        if is_rule && kind == 4 {
            kept.nested(kind, expressions(value))
        } else {
            kept.bytes(kind, value)
        }
    });
    Some(kept.into_bytes())
}

/// A rule's expressions without what its counters have counted.
fn expressions(list: &[u8]) -> Attributes {
    attributes(list).fold(Attributes::new(), |all, (kind, expression)| {
        let name = attributes(expression).find(|(kind, _)| *kind == EXPRESSION_NAME);
        let name = name.map_or(&[][..], |(_, name)| name);
        let counts = name.strip_suffix(&[0]) == Some(b"counter".as_slice());
        let kept = attributes(expression)
            .filter(|(kind, _)| *kind != EXPRESSION_DATA || !counts)
            .fold(Attributes::new(), |kept, (kind, value)| kept.bytes(kind, value));
        all.nested(kind, kept)
    })
}

/// Lists rules, or routes, that have to do with our routing table.
fn list_routes(
    socket: &mut NetlinkSocket,
    family: u8,
    get: u16,
    kind: u16,
    into: &mut Vec<Vec<u8>>,
) -> Result<(), NetlinkError> {
    let mut header = [0; ROUTE_HEADER];
    header[0] = family;
    let request = Message::new(get, DUMP, &header, Attributes::new(), "list rules and routes");
    let listed = socket.dump_each(&request, kind, |payload| {
        let (Some(fixed), Some(all)) = (payload.get(..ROUTE_HEADER), payload.get(ROUTE_HEADER..)) else {
            return;
        };
        let ours = attributes(all)
            .any(|(kind, value)| kind == ATTRIBUTE_TABLE && value == ROUTE_TABLE.to_ne_bytes());
        // A kernel without IPv6 lists IPv4's.
        if ours && fixed.first() == Some(&family) {
            let kept = attributes(all)
                .filter(|(kind, _)| *kind != ROUTE_CACHEINFO)
                .fold(Attributes::new(), |kept, (kind, value)| kept.bytes(kind, value));
            into.push([fixed, &kept.into_bytes()].concat());
        }
    });
    match listed {
        Err(e) if family == AF_INET6 && matches!(e.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {
            Ok(())
        }
        other => other,
    }
}
