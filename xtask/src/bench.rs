//! `cargo xtask bench`: what Ambit costs.

mod control;
mod l4;
mod l7;
mod load;
mod machine;
mod plots;
mod process;
mod proxy;
mod stage;
mod table;

use anyhow::Result;
use clap::Subcommand;

use crate::progress::Progress;

/// Which benchmark.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Throughput, requests and new connections through a pair of ztunnels, against the direct path in the same run.
    L4(l4::Arguments),
    /// Our waypoint beside Envoy as a waypoint, and plain reverse proxies for scale.
    L7(l7::Arguments),
    /// The control plane with clusters of 1,000 to 200,000 pods: memory, restart, changes.
    Control(control::Arguments),
    /// What the tables in bench/results say, as pictures; a benchmark that writes a table makes them anew.
    Plots,
}

/// Runs one.
pub(crate) fn run(command: &BenchCommand, progress: &Progress) -> Result<()> {
    match command {
        BenchCommand::L4(arguments) => l4::run(arguments, progress),
        BenchCommand::L7(arguments) => l7::run(arguments, progress),
        BenchCommand::Control(arguments) => control::run(arguments, progress),
        BenchCommand::Plots => plots::run(progress),
    }
}
