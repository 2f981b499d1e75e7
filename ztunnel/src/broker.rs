//! The conversation with the node agent, which passes pods' listeners and seeds over a unix socket.

mod client;

pub(crate) use client::{Broker, PodEvents};
