//! nf_tables and rtnetlink, spoken directly: the image holds no `nft` and no `ip`, and the rules are few.
//!
//! Everything here acts on the network namespace of the calling thread; see [`crate::netns`] for how a thread gets there. The
//! calls block, for microseconds.

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

/// Why the kernel did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused one message; nothing of the transaction is in force.
    #[error("kernel refused to {step}: {errno} ({errno:?})")]
    Refused {
        /// What the message would have done, for a person.
        step: String,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The netlink socket itself failed.
    #[error("netlink socket: could not {action}: {errno} ({errno:?})")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// The error number.
        errno: Errno,
    },
    /// The kernel cannot hand a connection over without rewriting it.
    #[error("the kernel has no nft_tproxy (CONFIG_NFT_TPROXY), which the redirection needs")]
    NoTproxy,
    /// An answer that is not netlink, or none at all.
    #[error("netlink: {0}")]
    Answer(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Socket { errno, .. } => Some(*errno),
            Self::NoTproxy | Self::Answer(_) => None,
        }
    }
}
