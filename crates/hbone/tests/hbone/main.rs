//! HBONE end to end over loopback: mutual TLS, CONNECT, copying and the pool, with a certificate authority in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod copying;
mod io;
mod memory;
mod peers;
mod pooling;
mod refused;
mod requests;
mod support;
