//! The connection to the control plane: delta xDS brings the pods to capture, reports return the pods that were
//! captured.

mod reporter;
mod updates;

pub use reporter::Reporter;
pub use updates::{Updates, subscriptions};
