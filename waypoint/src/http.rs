//! The messages of HTTP: how they are framed, what their fields and targets mean, and their bodies.

mod body;
mod detect;
mod framing;
pub(crate) mod headers;
mod interim;
pub(crate) mod io;
pub(crate) mod limits;
mod target;

pub(crate) use body::{ClientBody, RequestBody, Spool, Upload};
pub(crate) use detect::{Detected, detect, unfinished};
pub(crate) use interim::{Interim, Respond};
pub(crate) use io::ClientStream;
pub use limits::HttpTimeouts;
pub(crate) use target::RawTarget;
