//! Client and server of delta xDS (incremental ADS). A server serves [`Collection`]s. `docs/protocols.md` describes
//! which parts of the protocol are used, and how.

mod client;
mod client_metrics;
mod collection;
mod digest;
mod node;
mod server;

pub use client::{Batch, Client, ConnectionState, Handler, Rejection, Resource, Subscription};
pub use collection::{Changes, Collection, FellBehind, PartLimit, StoredResource};
pub use digest::HeldDigests;
pub use server::{Source, serve};

/// The `system_version_info` of a response that is followed at once by the rest of the same changes.
const PARTIAL: &str = "partial";

#[cfg(test)]
mod tests;
