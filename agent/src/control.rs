//! The way to the control plane: what to capture comes down as delta xDS, what was captured goes up as reports.

mod reporter;
mod updates;

pub use reporter::Reporter;
pub use updates::{Updates, subscriptions};
