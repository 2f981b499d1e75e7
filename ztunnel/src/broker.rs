//! The conversation with the node agent, which passes pods' listeners and seeds over a unix socket.

mod client;
mod events;

pub(crate) use client::Broker;
pub(crate) use events::{AddError, DESCRIPTORS_PER_POD, PodEvents};
