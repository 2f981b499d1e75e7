//! The node agent's side of the work: it makes all sockets, and passes them over a unix socket.

mod client;
mod outbox;
mod sockets;

pub(crate) use client::{Broker, PodEvents};
pub(crate) use outbox::Outbox;
pub(crate) use sockets::{SocketError, SocketPool};
