//! The node agent: CNI plugin, redirection, socket broker.

pub mod netlink;
pub mod netns;
