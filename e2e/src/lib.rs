//! A real Kubernetes cluster, embedded, and the tests on it.
//!
//! [`cluster::Cluster`] runs upstream Kubernetes on this machine alone, as root: a control plane and any number of nodes, each
//! with its own network, containerd, kubelet and kube-proxy. [`tools`] installs what that takes. [`mesh`] puts Ambit on it with
//! Helm, [`argocd`] from git, [`sample`] an application, [`prometheus`] scrapes it, and [`wire`] records what goes between
//! the nodes.

pub mod argocd;
pub mod cluster;
pub mod docs;
pub mod http;
pub mod kube;
pub mod lab;
pub mod long;
pub mod mesh;
pub mod preflight;
pub mod prometheus;
pub mod sample;
mod shell;
pub mod tools;
mod wait;
pub mod wire;
mod workspace;

pub use wait::eventually;
pub use workspace::workspace;
