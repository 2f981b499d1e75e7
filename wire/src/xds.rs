//! Delta xDS (incremental ADS), both halves. What a server serves lies in [`Collection`]s; `docs/protocols.md` says what of the
//! protocol is used and how.

mod collection;

pub use collection::{Changes, Collection, FellBehind, PartLimit, StoredResource};
