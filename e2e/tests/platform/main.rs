//! Ambit among the tools that people keep a mesh with, on the cluster that AMBIT_TEST_CLUSTER names: `cargo xtask test --all`.
//!
//! A file for each tool. Tests here may install and remove Ambit; each leaves it installed, with a Ready Mesh, or not at all.

mod argocd;
mod canary;
mod chart;
mod dashboards;
mod docs;
mod kstatus;
