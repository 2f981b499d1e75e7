//! Requests that two servers may read differently, made by rules, and what they are by the standard.
//!
//! A proxy in front of a server is safe if both find the same requests in a connection: one request in, at most one
//! out. [`cases`] tries that with HTTP/1, [`http2::cases`] with HTTP/2. [`http1::requests`] says what is a request.

mod case;
mod chunks;
mod fields;
pub mod http1;
pub mod http2;
mod lines;
mod table;

pub use case::{CASE, Case, SMUGGLED};
pub use table::cases;
