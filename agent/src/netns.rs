//! Jobs in the network namespaces of pods.
//!
//! A thread that enters another namespace stays there, so a worker of the runtime must not enter one. Every job here
//! has its own thread, which ends with the job.

mod namespace;
mod sockets;

pub use namespace::{Netns, NetnsRunner, socket_netns_inode};
pub use sockets::{AdoptError, Listeners, WrongSocket, make_listeners};

use std::io;

/// Why a job in a network namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file of the namespace could not be opened.
    #[error("could not open network namespace {path}: {source}")]
    Open {
        /// The path of the file.
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
    /// No thread could be started, or the thread ended without a result.
    #[error("could not run in network namespace: {0}")]
    Thread(String),
    /// Another program listens on a port that redirection needs.
    #[error("port {port} is in use in the pod's network namespace")]
    PortInUse {
        /// Which.
        port: u16,
    },
    /// A socket could not be created or configured.
    #[error("could not {action} in the pod's network namespace: {source}")]
    Socket {
        /// The action that failed.
        action: String,
        /// Why not.
        source: io::Error,
    },
}
