//! Developer commands: `cargo xtask help`.

mod alerts;
mod bench;
mod beside;
mod chart;
mod cluster;
mod conformance;
mod crds;
mod dashboards;
mod demo;
mod dev;
mod fuzz;
mod images;
mod lint;
mod progress;
mod release;
mod test;
mod tilt;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use progress::Progress;

/// Ambit's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what Ambit costs: l4, l7.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Generate the chart's schema and README from its values.yaml, or its manifests.
    Chart(chart::Arguments),
    /// A real Kubernetes on this machine: up, down, list, status.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// The Gateway API's conformance tests of a mesh, on a real cluster.
    Conformance(conformance::Arguments),
    /// Generate the CustomResourceDefinitions in the chart from the types in `crds/`.
    Crds(crds::Arguments),
    /// Generate the chart's Grafana dashboards from the definitions in `xtask/src/dashboards/`.
    Dashboards(dashboards::Arguments),
    /// Show on a real cluster what Ambit does: a running application joins the mesh.
    Demo(demo::Arguments),
    /// Bring programs of the work tree into a running cluster, in seconds. The Tiltfile does it at every edit.
    Dev(dev::Arguments),
    /// Random input by libFuzzer for the parsers of untrusted data: all targets for a minute each, or one.
    Fuzz(fuzz::Arguments),
    /// Build static binaries and an image of each, as docker archives under target/images.
    Images(images::Arguments),
    /// Format, clippy, dependencies and generated files: the checks before any test.
    Lint,
    /// Make the files of a release: images, chart, manifests, bills of materials, checksums, notes.
    Release(release::Arguments),
    /// Run Tilt on a cluster of this machine; Tilt and the cluster are created if missing.
    Tilt(tilt::Arguments),
    /// All tests, including those on a real cluster.
    Test(test::Arguments),
}

fn main() -> ExitCode {
    if let Some(ended) = dev::as_wrapper() {
        return ended;
    }
    let progress = Progress::new();
    match run(Arguments::parse().command, &progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, progress: &Progress) -> Result<()> {
    match command {
        Command::Bench(command) => bench::run(&command, progress),
        Command::Chart(arguments) => chart::run(&arguments, progress),
        Command::Cluster(command) => cluster::run(command, progress),
        Command::Conformance(arguments) => conformance::run(&arguments, progress),
        Command::Crds(arguments) => crds::run(&arguments, progress),
        Command::Dashboards(arguments) => dashboards::run(&arguments, progress),
        Command::Demo(arguments) => demo::run(&arguments, progress),
        Command::Dev(arguments) => dev::run(&arguments, progress),
        Command::Fuzz(arguments) => fuzz::run(&arguments, progress),
        Command::Images(arguments) => images::run(&arguments, progress),
        Command::Lint => lint::run(progress),
        Command::Release(arguments) => release::run(&arguments, progress),
        Command::Tilt(arguments) => tilt::run(&arguments, progress),
        Command::Test(arguments) => test::run(&arguments, progress),
    }
}
