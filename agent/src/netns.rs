//! Work inside pods' network namespaces.
//!
//! A thread that enters another namespace stays in it, and a runtime's worker must not: every job here gets a thread of its own,
//! which ends with it.

mod namespace;
mod sockets;

pub use namespace::{Netns, NetnsRunner, socket_netns_inode};
pub use sockets::{AdoptError, Listeners, WrongSocket, make_listeners};

use std::io;

/// Why work in a network namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespace's file could not be opened.
    #[error("could not open network namespace {path}: {source}")]
    Open {
        /// The path tried.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("could not enter network namespace {inode}: {source}")]
    Enter {
        /// Its inode.
        inode: u64,
        /// Why not.
        source: io::Error,
    },
    /// No thread could be started, or it ended without an answer.
    #[error("could not run in network namespace: {0}")]
    Thread(String),
    /// Something else listens on a port that redirection needs.
    #[error("port {port} is in use in the pod's network namespace")]
    PortInUse {
        /// Which.
        port: u16,
    },
    /// A socket could not be made or set up.
    #[error("could not {action} in the pod's network namespace: {source}")]
    Socket {
        /// What was being done.
        action: String,
        /// Why not.
        source: io::Error,
    },
}
