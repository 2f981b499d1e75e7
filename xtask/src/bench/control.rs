//! `cargo xtask bench control`: the index and the streams of the control plane, with clusters of several sizes.

mod table;

use std::fs;
use std::process::Command;

use ambit_bench::control::Outcome;
use anyhow::{Context, Result, bail};
use clap::Args;

use super::machine;
use crate::images::Profile;
use crate::progress::Progress;
use crate::workspace::{self, cargo};
use table::{Measured, Table};

const PACKAGE: &str = "ambit-bench-control";

/// As in a release, and its folder.
const PROFILE: &str = Profile::Dist.name();

/// Pods of the clusters.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 200_000];

/// How to run it.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only a cluster with so many pods; the table is printed but not written.
    #[arg(long)]
    workloads: Option<usize>,
    /// Nodes whose ztunnel and agent have a stream open.
    #[arg(long, default_value_t = 2_500)]
    clients: usize,
    /// How long the cluster changes, in seconds.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Changes a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Measure the binary that is there from an earlier run.
    #[arg(long)]
    no_build: bool,
}

/// Runs it, prints the table and writes it to `bench/results/control.md`, with its picture.
pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let machine = machine::line()?;
    if !arguments.no_build {
        progress.step("build the benchmark", || {
            let mut build = cargo(&["build", "--profile", PROFILE, "--locked", "--package", PACKAGE]);
            workspace::build(&mut build, PACKAGE, progress)
        })?;
    }
    let sizes = arguments.workloads.map_or(SIZES.to_vec(), |one| vec![one]);
    let mut measured = Vec::new();
    for pods in sizes {
        let one = progress.step(&format!("{pods} pods"), || measure(arguments, pods))?;
        measured.push(one);
    }
    let table = Table { machine, measured };
    let text = table.to_string();
    println!("{text}");
    if arguments.workloads.is_none() {
        let path = workspace::root().join("bench/results/control.md");
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        progress.note(&format!("written to {}", path.display()));
        super::plots::run(progress)?;
    }
    if let Some(growth) = table.growth().filter(|growth| growth.is_quadratic()) {
        bail!("the cost of an object grows with the number of objects: {growth}");
    }
    Ok(())
}

fn measure(arguments: &Arguments, pods: usize) -> Result<Measured> {
    let busy = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let mut command = Command::new(workspace::target().join(PROFILE).join(PACKAGE));
    for (flag, value) in [
        ("--workloads", pods.to_string()),
        ("--clients", arguments.clients.to_string()),
        ("--seconds", arguments.seconds.to_string()),
        ("--rate", arguments.rate.to_string()),
    ] {
        command.args([flag, &value]);
    }
    let text = workspace::output(&mut command)?;
    let outcome: Outcome =
        serde_json::from_str(&text).with_context(|| format!("{PACKAGE} printed {text}"))?;
    let load = busy.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Measured { outcome, load })
}
