//! Ambit on a real cluster. `cargo xtask test` makes the cluster and runs these; by hand:
//!
//! ```sh
//! cargo xtask cluster up && cargo xtask images --load ambit
//! AMBIT_TEST_CLUSTER=ambit cargo test -p ambit-e2e --features cluster --test mesh -- deny
//! ```
//!
//! Each test brings what it needs into a namespace of its own. They take turns, as some of them kill what all share.

mod authorization;
mod bad_input;
mod certificates;
mod cluster;
mod enrolment;
mod failures;
mod hbone;
mod hostile;
mod identity;
mod node;
mod privileges;
mod software;
mod status;
mod uninstall;
mod waypoint;
