//! The node agent: CNI plugin, redirection, socket broker.
//!
//! The only privileged part of the mesh. For each pod that is to be captured it makes listening sockets in the pod's network
//! namespace, hands them to an unprivileged ztunnel, and puts nftables rules in force that lead the pod's connections to them.
//!
//! - [`capture`]: what happens to a pod, step by step; who is told.
//! - [`broker`]: the socket over which ztunnels get listeners and outbound sockets.
//! - [`cni`]: the plugin that captures a pod before its first process, and its installation.
//! - [`netlink`], [`netns`]: the kernel.
//! - [`runtime`]: the container runtime.
//! - [`probes`], [`report`], [`snapshot`], [`metrics`]: the rest of the node's state.

pub mod broker;
pub mod capture;
pub mod cni;
pub mod config;
pub mod control;
mod files;
mod http;
pub mod metrics;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod probes;
pub mod report;
pub mod runtime;
pub mod snapshot;
#[cfg(feature = "testing")]
pub mod testing;
