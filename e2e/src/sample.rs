//! The sample application: what it says, what it counts, and how it stands on a cluster. The program itself is the binary
//! `ambit-sample` of this crate.

mod shop;
mod stats;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use shop::Shop;
pub use stats::{Failure, Flow, Stats, millis};

/// Reference of the application's image.
pub const IMAGE: &str = "localhost/ambit/sample:dev";

/// Part of everything the application says, so that a packet capture shows whether it went in clear.
pub const MARKER: &str = "ambit-sample-payload-in-clear";

/// What the server logs of a connection, and answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// [`MARKER`].
    pub payload: String,
    /// In milliseconds since 1970.
    pub time: u64,
    /// The kind of traffic.
    pub flow: String,
    /// The address that the server takes for its peer's.
    pub peer: SocketAddr,
    /// Name of the server's pod.
    pub server: String,
}
