//! Access log and metrics of connections.

mod direction;
mod metrics;
mod record;
mod refusal;

pub(crate) use direction::Direction;
pub(crate) use metrics::{Gauges, Metrics};
pub(crate) use record::{Flag, Flipped, Peer, Record, Reporter, Traffic};
pub(crate) use refusal::Refusal;
