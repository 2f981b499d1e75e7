//! The waypoint: an HTTP proxy in front of the services of its namespace that need one. It ends HBONE, knows the caller by its
//! certificate, applies the rules, and opens HBONE to the endpoint of its choice. It is told only what it serves.

mod observe;
mod proxy;
mod state;
