//! HTTP from clients: connections, requests, what is decided on them, and their answers.

mod answer;
mod body;
mod connection;
mod detect;
mod framing;
mod headers;
mod held;
mod interim;
pub(crate) mod io;
pub(crate) mod limits;
mod request;
mod response;
mod retry;
mod serve;
mod target;
mod tries;
mod upgrade;

pub(crate) use answer::{OVERLOADED, REASON};
pub(crate) use body::RequestBody;
pub(crate) use connection::{ClientConnection, Served, Target};
pub(crate) use held::Revoked;
pub(crate) use interim::Interim;
pub(crate) use io::ClientStream;
pub use limits::HttpTimeouts;
pub(crate) use serve::serve;
pub(crate) use target::RawTarget;
