//! Expressions of nf_tables rules (`linux/netfilter/nf_tables.h`): only those that the rules here are made of.
//!
//! All of them work on register 1, as `nft` has it, so that what the kernel holds is listed by `nft` in its own words.

use super::message::Attributes;
use std::net::IpAddr;

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
/// The 32-bit register after an IPv4 address in register 1: the second field of a concatenation.
const REGISTER_AFTER_IPV4: u32 = 9;

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 0x20;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP: u8 = 6;
/// `RTN_LOCAL`.
const TYPE_LOCAL: u32 = 2;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;
const NAT_SOURCE: u32 = 0;

const EQ: u32 = 0;
const NEQ: u32 = 1;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const RETURN: i32 = -5;

const SOCKET_WILDCARD: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const SET_ADD: u32 = 0;
const SET_DELETE: u32 = 2;

/// Which IP a packet is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

/// Which way a packet goes, as seen from the pod.
#[derive(Debug, Clone, Copy)]
pub(super) enum Packet {
    Sent,
    Received,
}

/// The expressions of one rule, in order; each method is one phrase of the rule as `nft` writes it.
#[derive(Debug, Default)]
pub(super) struct Rule(Attributes);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The nested list for `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn into_attributes(self) -> Attributes {
        self.0
    }

    pub(super) fn iifname_is(self, name: &str) -> Self {
        self.load_meta(META_IIFNAME).compare(EQ, &interface(name))
    }

    pub(super) fn oifname_is_not(self, name: &str) -> Self {
        self.load_meta(META_OIFNAME).compare(NEQ, &interface(name))
    }

    pub(super) fn mark_is(self, mark: u32) -> Self {
        self.load_meta(META_MARK).compare(EQ, &mark.to_ne_bytes())
    }

    /// `meta mark !=`.
    pub(super) fn mark_is_not(self, mark: u32) -> Self {
        self.load_meta(META_MARK).compare(NEQ, &mark.to_ne_bytes())
    }

    /// `meta mark set`.
    pub(super) fn set_mark(self, mark: u32) -> Self {
        self.immediate(&mark.to_ne_bytes())
            .expr("meta", Attributes::new().be32(2, META_MARK).be32(3, REGISTER_1))
    }

    /// `meta skuid`.
    pub(super) fn socket_uid_is(self, uid: u32) -> Self {
        self.load_meta(META_SKUID).compare(EQ, &uid.to_ne_bytes())
    }

    /// `tcp dport`, with the protocol match it depends on.
    pub(super) fn tcp_dport_is(self, port: u16) -> Self {
        self.tcp()
            .load_payload(TRANSPORT_HEADER, 2, 2, REGISTER_1)
            .compare(EQ, &port.to_be_bytes())
    }

    /// `tcp flags & (fin|syn|rst|ack) == syn`: the first packet of a connection, and no other.
    pub(super) fn tcp_syn(self) -> Self {
        self.tcp_flags(EQ)
    }

    fn tcp_flags(self, is_syn: u32) -> Self {
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.tcp()
            .load_payload(TRANSPORT_HEADER, 13, 1, REGISTER_1)
            .mask(&[FIN_SYN_RST_ACK])
            .compare(is_syn, &[SYN])
    }

    /// `ip saddr`, with the family match that an `inet` table needs.
    pub(super) fn inet_ip_saddr_is(self, address: std::net::Ipv4Addr) -> Self {
        self.load_meta(META_NFPROTO)
            .compare(EQ, &[NFPROTO_IPV4])
            .ip_saddr_is(address)
    }

    /// `ip daddr` or `ip6 daddr`, with the family match that an `inet` table needs.
    pub(super) fn inet_daddr_is(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self
                .load_meta(META_NFPROTO)
                .compare(EQ, &[NFPROTO_IPV4])
                .load_payload(NETWORK_HEADER, 16, 4, REGISTER_1)
                .compare(EQ, &address.octets()),
            IpAddr::V6(address) => self
                .load_meta(META_NFPROTO)
                .compare(EQ, &[NFPROTO_IPV6])
                .load_payload(NETWORK_HEADER, 24, 16, REGISTER_1)
                .compare(EQ, &address.octets()),
        }
    }

    /// `ip saddr` in an `ip` table.
    pub(super) fn ip_saddr_is(self, address: std::net::Ipv4Addr) -> Self {
        self.load_payload(NETWORK_HEADER, 12, 4, REGISTER_1)
            .compare(EQ, &address.octets())
    }

    /// `ip daddr . tcp dport @set` in an `ip` table.
    pub(super) fn ip_daddr_tcp_dport_in(self, set: &str, set_id: u32) -> Self {
        self.tcp()
            .load_payload(NETWORK_HEADER, 16, 4, REGISTER_1)
            .load_payload(TRANSPORT_HEADER, 2, 2, REGISTER_AFTER_IPV4)
            .expr(
                "lookup",
                Attributes::new()
                    .be32(2, REGISTER_1)
                    .string(1, set)
                    .be32(4, set_id),
            )
    }

    pub(super) fn fib_daddr_is_local(self) -> Self {
        self.load_fib(FIB_DADDR).compare(EQ, &TYPE_LOCAL.to_ne_bytes())
    }

    pub(super) fn fib_saddr_is_local(self) -> Self {
        self.load_fib(FIB_SADDR).compare(EQ, &TYPE_LOCAL.to_ne_bytes())
    }

    pub(super) fn fib_saddr_is_not_local(self) -> Self {
        self.load_fib(FIB_SADDR).compare(NEQ, &TYPE_LOCAL.to_ne_bytes())
    }

    pub(super) fn ct_status_not_dnat(self) -> Self {
        self.load_ct(CT_STATUS)
            .mask(&STATUS_DNAT.to_ne_bytes())
            .compare(EQ, &0u32.to_ne_bytes())
    }

    pub(super) fn counter(self) -> Self {
        let zero = 0u64.to_be_bytes();
        self.expr("counter", Attributes::new().bytes(1, &zero).bytes(2, &zero))
    }

    pub(super) fn snat_to(self, address: std::net::Ipv4Addr) -> Self {
        self.immediate(&address.octets()).expr(
            "nat",
            Attributes::new()
                .be32(1, NAT_SOURCE)
                .be32(2, u32::from(NFPROTO_IPV4))
                .be32(3, REGISTER_1),
        )
    }

    /// `meta l4proto != tcp`.
    pub(super) fn not_tcp(self) -> Self {
        self.load_meta(META_L4PROTO).compare(NEQ, &[TCP])
    }

    /// `tcp flags & rst == rst`.
    pub(super) fn tcp_rst(self) -> Self {
        const RST: u8 = 0x04;
        self.tcp()
            .load_payload(TRANSPORT_HEADER, 13, 1, REGISTER_1)
            .mask(&[RST])
            .compare(EQ, &[RST])
    }

    /// `tcp flags & (fin|syn|rst|ack) != syn`: any packet but the first of a connection.
    pub(super) fn tcp_not_syn(self) -> Self {
        self.tcp_flags(NEQ)
    }

    /// `socket wildcard 0`: the packet has a socket, and that is bound to an address.
    pub(super) fn has_bound_socket(self) -> Self {
        self.expr(
            "socket",
            Attributes::new().be32(1, SOCKET_WILDCARD).be32(2, REGISTER_1),
        )
        .compare(EQ, &[0])
    }

    /// Loads the far end's address and port and the near end's port of a TCP packet of this IP version, as the sets of connections
    /// have them.
    pub(super) fn connection(self, version: IpVersion, packet: Packet) -> Self {
        let (family, source, destination, length, [port, other_port]) = match version {
            IpVersion::V4 => (NFPROTO_IPV4, 12, 16, 4, [9, 10]),
            IpVersion::V6 => (NFPROTO_IPV6, 8, 24, 16, [2, 13]),
        };
        let (address, [far, near]) = match packet {
            Packet::Sent => (destination, [2, 0]),
            Packet::Received => (source, [0, 2]),
        };
        self.load_meta(META_NFPROTO)
            .compare(EQ, &[family])
            .tcp()
            .load_payload(NETWORK_HEADER, address, length, REGISTER_1)
            .load_payload(TRANSPORT_HEADER, far, 2, port)
            .load_payload(TRANSPORT_HEADER, near, 2, other_port)
    }

    /// Whether what is loaded is in the set.
    pub(super) fn within(self, set: &str) -> Self {
        self.expr("lookup", Attributes::new().be32(2, REGISTER_1).string(1, set))
    }

    /// Whether it is not.
    pub(super) fn outside(self, set: &str) -> Self {
        let lookup = Attributes::new().be32(2, REGISTER_1).string(1, set);
        self.expr("lookup", lookup.be32(5, LOOKUP_INVERTED))
    }

    /// `add @set`.
    pub(super) fn add_to(self, set: &str) -> Self {
        self.change_set(set, SET_ADD)
    }

    /// `delete @set`.
    pub(super) fn delete_from(self, set: &str) -> Self {
        self.change_set(set, SET_DELETE)
    }

    fn change_set(self, set: &str, operation: u32) -> Self {
        self.expr(
            "dynset",
            Attributes::new()
                .be32(4, REGISTER_1)
                .be32(3, operation)
                .string(1, set),
        )
    }

    /// `tproxy to :port`, for both IP versions.
    pub(super) fn tproxy_to(self, port: u16) -> Self {
        self.tcp()
            .immediate(&port.to_be_bytes())
            .expr("tproxy", Attributes::new().be32(1, 0).be32(3, REGISTER_1))
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(ACCEPT)
    }

    /// The verdict `return`.
    pub(super) fn back(self) -> Self {
        self.verdict(RETURN)
    }

    pub(super) fn drop(self) -> Self {
        self.verdict(DROP)
    }

    fn tcp(self) -> Self {
        self.load_meta(META_L4PROTO).compare(EQ, &[TCP])
    }

    fn load_meta(self, key: u32) -> Self {
        self.expr("meta", Attributes::new().be32(2, key).be32(1, REGISTER_1))
    }

    fn load_ct(self, key: u32) -> Self {
        self.expr("ct", Attributes::new().be32(2, key).be32(1, REGISTER_1))
    }

    fn load_fib(self, flags: u32) -> Self {
        self.expr(
            "fib",
            Attributes::new()
                .be32(3, flags)
                .be32(2, FIB_RESULT_ADDRTYPE)
                .be32(1, REGISTER_1),
        )
    }

    fn load_payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expr(
            "payload",
            Attributes::new()
                .be32(1, register)
                .be32(2, base)
                .be32(3, offset)
                .be32(4, length),
        )
    }

    fn mask(self, mask: &[u8]) -> Self {
        let zero = vec![0; mask.len()];
        self.expr(
            "bitwise",
            Attributes::new()
                .be32(1, REGISTER_1)
                .be32(2, REGISTER_1)
                .be32(3, u32::try_from(mask.len()).unwrap_or_default())
                .nested(4, Attributes::new().bytes(DATA_VALUE, mask))
                .nested(5, Attributes::new().bytes(DATA_VALUE, &zero)),
        )
    }

    fn compare(self, operator: u32, value: &[u8]) -> Self {
        let data = Attributes::new().bytes(DATA_VALUE, value);
        self.expr(
            "cmp",
            Attributes::new()
                .be32(1, REGISTER_1)
                .be32(2, operator)
                .nested(3, data),
        )
    }

    fn immediate(self, value: &[u8]) -> Self {
        let data = Attributes::new().bytes(DATA_VALUE, value);
        self.expr("immediate", Attributes::new().be32(1, REGISTER_1).nested(2, data))
    }

    fn verdict(self, code: i32) -> Self {
        let verdict = Attributes::new().bytes(VERDICT_CODE, &code.to_be_bytes());
        let data = Attributes::new().nested(DATA_VERDICT, verdict);
        self.expr(
            "immediate",
            Attributes::new().be32(1, REGISTER_VERDICT).nested(2, data),
        )
    }

    fn expr(self, name: &str, data: Attributes) -> Self {
        let expression = Attributes::new().string(EXPR_NAME, name).nested(EXPR_DATA, data);
        Self(self.0.nested(LIST_ELEM, expression))
    }
}

/// An interface name as the kernel compares it: padded to `IFNAMSIZ`.
fn interface(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    padded
}
