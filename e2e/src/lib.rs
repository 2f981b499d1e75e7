//! A real Kubernetes cluster, embedded, and the tests on it.
//!
//! [`cluster::Cluster`] runs upstream Kubernetes on this machine alone, as root: a control plane and any number of nodes, each
//! with its own network, containerd, kubelet and kube-proxy. [`tools`] installs what that takes.

pub mod cluster;
pub mod sample;
mod shell;
pub mod tools;
mod wait;
