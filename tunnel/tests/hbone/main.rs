//! HBONE end to end over loopback: mutual TLS, CONNECT, copying and the pool, with a certificate authority in memory.

mod copying;
mod peers;
mod pooling;
mod requests;
mod support;
