//! The session with the node agent, which passes listeners and seeds of pods over a unix socket.

mod client;
mod events;

pub(crate) use client::Broker;
pub(crate) use events::{AddError, DESCRIPTORS_PER_POD, PodEvents};
