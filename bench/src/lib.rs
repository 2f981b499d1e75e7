//! The load of the benchmarks: [`server`] answers, [`client`] asks and measures, [`Report`] is what a measurement came
//! to.
//!
//! Threads and blocking sockets, one thread a connection: what the load itself costs is then two system calls a
//! message, and it does not share a runtime's scheduler with the proxies that are measured.

pub mod client;
pub mod control;
mod histogram;
pub mod l7;
mod report;
mod schedule;
pub mod server;
mod tally;

pub use histogram::Histogram;
pub use report::{Latency, Report, Seen, Work, median};
pub use schedule::{Rhythm, Schedule};
pub use tally::{Tally, Window};

/// Size of a request in bytes. Its first four are the size of the response that is wanted, big-endian.
pub const REQUEST_BYTES: usize = 64;

/// Size of the response that clients ask for, in bytes.
pub const RESPONSE_BYTES: u32 = 1024;

/// The port that takes all that is sent and tells how much it was.
pub const SINK_PORT: u16 = 5201;

/// The port that responds to requests.
pub const REPLY_PORT: u16 = 5202;

/// The port that says one byte and closes.
pub const CONNECT_PORT: u16 = 5203;

/// The port that says whom it takes its peer to be.
pub const PEER_PORT: u16 = 5204;
