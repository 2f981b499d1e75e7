//! Connections of clients: requests on them, what is decided on those, and their answers; and what is no HTTP.

mod answer;
mod asked;
mod connection;
mod connection_route;
mod counted;
mod deadline;
mod held;
mod mirror;
mod passthrough;
mod request;
mod response;
mod retry;
mod route;
mod serve;
mod skew;
mod tries;
mod upgrade;
mod websocket;

pub(crate) use connection::{ClientConnection, Served};
pub(crate) use serve::serve;
