//! The waypoint: an HTTP proxy in front of the services of its namespace that need one. It ends HBONE, knows the caller by its
//! certificate, applies the rules, and opens HBONE to the endpoint of its choice. It is told only what it serves.

mod account;
mod admission;
mod config;
mod downstream;
mod http;
mod http2;
mod inbound;
mod observe;
mod proxy;
mod received;
mod report;
mod retries;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod upstream;
mod waypoint;
mod xds;

pub use config::Config;
pub use http::HttpTimeouts;
pub use waypoint::{Addresses, Parts, Waypoint};
