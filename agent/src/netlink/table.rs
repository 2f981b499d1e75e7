//! Tables, chains, rules and sets of nf_tables as netlink messages.

use super::diag::Known;
use super::expr::{IpVersion, Rule};
use super::message::{APPEND, Attributes, CREATE, DUMP, Message};
use std::net::IpAddr;
use std::time::Duration;

const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
/// Type of the messages in the answer to [`Table::list_rules`].
pub(super) const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
/// Type of the messages in the answer to [`Table::list_elements`].
pub(super) const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`, the batch's resource id.
const RESOURCE: u16 = 10;
const POLICY_ACCEPT: u32 = 1;

const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
/// Most elements in one message: an attribute holds less than 64 KiB.
const ELEMENTS: usize = 1000;
/// `nft`'s number for the key type `ipv4_addr . inet_service`, by which it lists the set.
const KEY_IPV4_SERVICE: u32 = (7 << 6) | 13;
const KEY_IPV4_SERVICE_SERVICE: u32 = (7 << 12) | (13 << 6) | 13;
const KEY_IPV6_SERVICE_SERVICE: u32 = (8 << 12) | (13 << 6) | 13;
const SET_TIMEOUT: u32 = 0x10;
/// `NFT_SET_EVAL`: rules change it.
const SET_DYNAMIC: u32 = 0x20;
/// Past it a rule adds nothing.
const MOST_CONNECTIONS: u32 = 65_535;

/// Family of a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    Inet = 1,
    Ip = 2,
}

/// Where a base chain hooks in (`NF_INET_*`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    PreRouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    PostRouting = 4,
}

/// One table, as the maker of messages about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: &'static str,
}

/// The one in a captured pod.
pub(super) const TABLE: Table = Table {
    family: Family::Inet,
    name: "ambit",
};

impl Table {
    pub(super) fn create(self) -> Message {
        let attributes = Attributes::new().string(1, self.name).be32(2, 0);
        self.message(
            NEWTABLE,
            CREATE,
            attributes,
            format!("create table {}", self.name),
        )
    }

    pub(super) fn delete(self) -> Message {
        self.message(
            DELTABLE,
            0,
            Attributes::new().string(1, self.name),
            format!("delete table {}", self.name),
        )
    }

    pub(super) fn get(self) -> Message {
        self.message(
            GETTABLE,
            0,
            Attributes::new().string(1, self.name),
            format!("look up table {}", self.name),
        )
    }

    /// A base chain with policy accept; `kind` is `nat`, `route` or `filter`.
    pub(super) fn chain(self, chain: &'static str, kind: &'static str, hook: Hook, priority: i32) -> Message {
        let hook = Attributes::new()
            .be32(1, hook as u32)
            .bytes(2, &priority.to_be_bytes());
        let attributes = Attributes::new()
            .string(1, self.name)
            .string(3, chain)
            .string(7, kind)
            .be32(5, POLICY_ACCEPT)
            .nested(4, hook);
        self.message(
            NEWCHAIN,
            CREATE,
            attributes,
            format!("create {kind} chain {chain} of table {}", self.name),
        )
    }

    /// Appends `rule`; `text` is the rule in `nft`'s words, for the error.
    pub(super) fn rule(self, chain: &'static str, text: &str, rule: Rule) -> Message {
        let attributes = Attributes::new()
            .string(1, self.name)
            .string(2, chain)
            .nested(4, rule.into_attributes());
        let step = format!("add rule \"{text}\" to chain {chain} of table {}", self.name);
        self.message(NEWRULE, CREATE | APPEND, attributes, step)
    }

    /// Removes every rule of a chain and keeps its hook.
    pub(super) fn flush(self, chain: &'static str) -> Message {
        let attributes = Attributes::new().string(1, self.name).string(2, chain);
        self.message(
            DELRULE,
            0,
            attributes,
            format!("empty chain {chain} of table {}", self.name),
        )
    }

    pub(super) fn list_rules(self, chain: &'static str) -> Message {
        let attributes = Attributes::new().string(1, self.name).string(2, chain);
        self.message(
            GETRULE,
            DUMP,
            attributes,
            format!("list chain {chain} of table {}", self.name),
        )
    }

    /// Lists every table of the family.
    pub(super) fn list(self) -> Message {
        self.message(GETTABLE, DUMP, Attributes::new(), "list tables".to_owned())
    }

    /// Lists the chains of every table of the family.
    pub(super) fn list_chains(self) -> Message {
        self.message(GETCHAIN, DUMP, Attributes::new(), "list chains".to_owned())
    }

    /// Lists the rules of all chains of the table.
    pub(super) fn list_all_rules(self) -> Message {
        let attributes = Attributes::new().string(1, self.name);
        self.message(
            GETRULE,
            DUMP,
            attributes,
            format!("list the rules of table {}", self.name),
        )
    }

    /// A set with keys `ipv4_addr . inet_service`.
    pub(super) fn address_port_set(self, set: &'static str, id: u32) -> Message {
        // Eight bytes: each field of a concatenation is padded to four.
        let attributes = Attributes::new()
            .string(1, self.name)
            .string(2, set)
            .be32(3, 0)
            .be32(4, KEY_IPV4_SERVICE)
            .be32(5, 8)
            .be32(10, id);
        self.message(
            NEWSET,
            CREATE,
            attributes,
            format!("create set {set} of table {}", self.name),
        )
    }

    /// A set of connections: far address, far port, near port. Rules add to it and delete from it; with a `timeout`, elements go by
    /// themselves. One that is there stays as it is.
    pub(super) fn connection_set(
        self,
        set: &'static str,
        version: IpVersion,
        timeout: Option<Duration>,
    ) -> Message {
        let (key, length) = match version {
            IpVersion::V4 => (KEY_IPV4_SERVICE_SERVICE, 12),
            IpVersion::V6 => (KEY_IPV6_SERVICE_SERVICE, 24),
        };
        let flags = SET_DYNAMIC | timeout.map_or(0, |_| SET_TIMEOUT);
        let mut attributes = Attributes::new()
            .string(1, self.name)
            .string(2, set)
            .be32(3, flags)
            .be32(4, key)
            .be32(5, length)
            .be32(10, 1)
            .nested(9, Attributes::new().be32(1, MOST_CONNECTIONS));
        if let Some(timeout) = timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            attributes = attributes.bytes(11, &milliseconds.to_be_bytes());
        }
        let step = format!("create set {set} of table {}", self.name);
        self.message(NEWSET, CREATE, attributes, step)
    }

    /// Adds connections, all of one IP version, to a set of them.
    pub(super) fn add_connections<'a>(
        self,
        set: &'static str,
        connections: &'a [Known],
    ) -> impl Iterator<Item = Message> + 'a {
        self.change((NEWSETELEM, "add"), set, connections, connection_key)
    }

    /// Deletes connections from a set of them; it is an error where one is not there.
    pub(super) fn delete_connections<'a>(
        self,
        set: &'static str,
        connections: &'a [Known],
    ) -> impl Iterator<Item = Message> + 'a {
        self.change((DELSETELEM, "delete"), set, connections, connection_key)
    }

    /// Lists the elements of a set.
    pub(super) fn list_elements(self, set: &'static str) -> Message {
        let attributes = Attributes::new().string(1, self.name).string(2, set);
        let step = format!("list set {set} of table {}", self.name);
        self.message(GETSETELEM, DUMP, attributes, step)
    }

    /// Removes every element of a set.
    pub(super) fn flush_set(self, set: &'static str) -> Message {
        let attributes = Attributes::new().string(1, self.name).string(2, set);
        self.message(
            DELSETELEM,
            0,
            attributes,
            format!("empty set {set} of table {}", self.name),
        )
    }

    /// Adds elements to an address-and-port set.
    pub(super) fn add_elements<'a>(
        self,
        set: &'static str,
        elements: &'a [std::net::SocketAddrV4],
    ) -> impl Iterator<Item = Message> + 'a {
        self.change((NEWSETELEM, "add"), set, elements, |element| {
            let mut key = element.ip().octets().to_vec();
            push_port(&mut key, element.port());
            key
        })
    }

    fn change<'a, T>(
        self,
        (kind, verb): (u16, &'static str),
        set: &'static str,
        elements: &'a [T],
        key: impl Fn(&T) -> Vec<u8> + 'a,
    ) -> impl Iterator<Item = Message> + 'a {
        elements.chunks(ELEMENTS).map(move |chunk| {
            let list = chunk.iter().fold(Attributes::new(), |list, element| {
                let key = Attributes::new().bytes(DATA_VALUE, &key(element));
                list.nested(LIST_ELEM, Attributes::new().nested(1, key))
            });
            let attributes = Attributes::new()
                .string(1, self.name)
                .string(2, set)
                .nested(3, list);
            let step = format!(
                "{verb} {} elements of set {set} of table {}",
                chunk.len(),
                self.name
            );
            let flags = if kind == NEWSETELEM { CREATE } else { 0 };
            self.message(kind, flags, attributes, step)
        })
    }

    fn message(self, kind: u16, flags: u16, attributes: Attributes, step: String) -> Message {
        Message::new(kind, flags, &[self.family as u8, 0, 0, 0], attributes, step)
    }
}

fn connection_key((far, near): &Known) -> Vec<u8> {
    let mut key = match far.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    push_port(&mut key, far.port());
    push_port(&mut key, *near);
    key
}

/// A port as a part of a key: in network order, filled up to a register's four bytes.
fn push_port(key: &mut Vec<u8>, port: u16) {
    key.extend_from_slice(&port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
}

/// The messages as one transaction: all of it comes into force, or none.
pub(super) fn transaction(messages: Vec<Message>) -> Vec<Message> {
    let [high, low] = RESOURCE.to_be_bytes();
    let bound = |kind, step| Message::new(kind, 0, &[0, 0, high, low], Attributes::new(), step);
    let mut batch = vec![bound(BATCH_BEGIN, "commit the transaction")];
    let last = messages.len().saturating_sub(1);
    // Refusals always come back; of the successes the last one's is enough.
    batch.extend(
        messages
            .into_iter()
            .enumerate()
            .map(|(i, m)| if i == last { m.acknowledged() } else { m }),
    );
    batch.push(bound(BATCH_END, "end the transaction"));
    batch
}
