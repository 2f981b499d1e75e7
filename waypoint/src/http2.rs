//! HTTP/2 on top of h2, for clients and for endpoints: what one stream does must not touch the others of its connection.
//!
//! h2 counts small DATA frames that nobody has read, and ends the *connection* when they are too many. So the task that drives a
//! connection takes all frames out of h2 in the same turn in which they arrive ([`ambit_hbone::Turns`]), into a backlog of their stream
//! ([`Inflow`]) that holds little more memory than the bytes themselves. Flow control bounds these bytes: a window opens again
//! only when the reader takes them.

mod frames;
mod inflow;
mod outflow;

pub(crate) use frames::FrameIo;
pub(crate) use inflow::{Inflow, InflowError};
pub(crate) use outflow::{OutflowError, send_body};

/// What h2 may spend on small DATA frames that arrive in one turn of a connection, at 256 bytes a frame less its payload. A turn
/// reads at most [`frames::TURN`] bytes, which are fewer than 7,000 such frames.
pub(crate) const FRAME_BUDGET: usize = 16 << 20;
