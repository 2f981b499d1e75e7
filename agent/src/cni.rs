//! The CNI plugin: what the container runtime runs, what the agent answers, and how it gets into the node's configuration.

mod conflist;
mod install;
mod plugin;
mod protocol;
mod server;

pub use conflist::ConfigError;
pub use install::{InstallError, Installation, Installer};
pub use plugin::run as run_plugin;
pub use protocol::{Answer, Operation, Request};
pub use server::CniServer;
