//! Delta xDS (incremental ADS), both halves. What a server serves lies in [`Collection`]s; `docs/protocols.md` says what of the
//! protocol is used and how.

mod client;
mod collection;
mod node;
mod server;

pub use client::{Batch, Client, ConnectionState, Handler, Rejection, Resource, Subscription};
pub use collection::{Changes, Collection, FellBehind, PartLimit, StoredResource};
pub use server::{Source, serve};

/// In `system_version_info` of a response which the rest of the same set of changes follows at once.
const PARTIAL: &str = "partial";

#[cfg(test)]
mod tests;
