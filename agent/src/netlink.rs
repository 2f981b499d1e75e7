//! nf_tables and rtnetlink without external programs: the image contains no `nft` and no `ip`, and there are few rules.
//!
//! All functions act on the network namespace of the calling thread; [`crate::netns`] starts threads in other
//! namespaces. The calls block for microseconds.

mod bypass;
mod changes;
mod diag;
mod expr;
mod inspect;
mod message;
mod node;
mod pod;
mod route;
mod socket;
mod table;

pub use bypass::forget_ended_connections;
pub use changes::{Changes, watch_changes};
pub use diag::{undelivered_connections, waiting_connections};
pub use inspect::InForce;
pub use node::{install_node_table, remove_node_table, set_probes};
pub use pod::{PodTable, drain_pod_table, install_redirection, pod_table, remove_pod_table};
pub use route::{raise_loopback, remove_redirection_route};

use rustix::io::Errno;

/// Why a change in the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused one message. No part of the transaction is in force.
    #[error("kernel refused to {step}: {errno} ({errno:?})")]
    Refused {
        /// The purpose of the message, for a person.
        step: String,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The netlink socket itself failed.
    #[error("netlink socket: could not {action}: {errno} ({errno:?})")]
    Socket {
        /// The action that failed.
        action: &'static str,
        /// The error number.
        errno: Errno,
    },
    /// The kernel cannot redirect a connection without rewriting its addresses.
    #[error("the kernel has no nft_tproxy (CONFIG_NFT_TPROXY), which the redirection needs")]
    NoTproxy,
    /// A response that is not netlink, or no response.
    #[error("netlink: {0}")]
    Answer(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Socket { errno, .. } => Some(*errno),
            Self::NoTproxy | Self::Answer(_) => None,
        }
    }
}
