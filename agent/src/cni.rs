//! The CNI plugin: the program that the container runtime runs, the agent's responses, and the installation on the
//! node.

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
