//! The node agent: CNI plugin, redirection, socket broker.
//!
//! The only privileged program of the mesh. For each pod to capture, it creates listening sockets in the pod's network
//! namespace, passes them to an unprivileged ztunnel, and applies nftables rules that redirect the pod's connections to
//! them.
//!
//! - [`capture`]: capture and release of a pod, step by step.
//! - [`broker`]: the socket over which ztunnels receive listeners and outbound sockets.
//! - [`cni`]: the plugin that captures a pod before its first process, and its installation.
//! - [`netlink`], [`netns`]: calls to the kernel.
//! - [`runtime`]: calls to the container runtime.
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
