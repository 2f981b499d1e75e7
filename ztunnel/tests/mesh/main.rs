//! Two ztunnels of two nodes, over loopback: pods have addresses in 127.0.0.0/8, the node agent and the control plane
//! are stand-ins that speak the real protocols.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod agent;
mod authorization;
mod control_plane;
mod guards;
mod joining;
mod lifecycle;
mod namespaces;
mod node;
mod refusals;
mod routing;
mod waypoint;
mod waypoints;
