//! The waypoint: an HTTP proxy in front of the Services that are bound to it. It terminates HBONE,
//! authenticates the caller by its certificate, applies the rules, and opens HBONE to the endpoint of its choice. It
//! receives only the configuration of the services that it serves.

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
mod shards;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod upstream;
mod waypoint;
mod xds;

pub use config::Config;
pub use http::HttpTimeouts;
pub use waypoint::{Addresses, Parts, Waypoint};
