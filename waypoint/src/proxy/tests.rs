//! The data path, over real TLS and HBONE on loopback.

mod answers;
mod support;
