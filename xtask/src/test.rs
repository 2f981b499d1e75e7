//! `cargo xtask test`: everything that is checked, ending with the tests on a real cluster.

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::tools;
use anyhow::Result;

use crate::progress::Progress;
use crate::workspace::{self, cargo};
use crate::{images, lint};

/// The cluster of the tests; it is made anew and removed.
const CLUSTER: &str = "ambit-test";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests on the cluster, of these only those whose name contains this.
    filter: Option<String>,
    /// Leave the cluster up, and use it again next time.
    #[arg(long)]
    keep: bool,
}

/// Runs the command. The last thing printed is the test runner's own summary.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    // Not only the cluster is made of them: tests without one make network namespaces, and look at their rules.
    tools::ensure_packages(&|message| progress.note(message))?;
    if arguments.filter.is_none() {
        lint::run(progress)?;
        progress.step("tests that need no cluster", || {
            workspace::run(&mut cargo(&["test", "--workspace", "--locked"]))
        })?;
    }
    if !arguments.keep {
        // What an earlier run left, killed half-way, must not decide the outcome of this one.
        Cluster::down(CLUSTER)?;
    }
    let result = on_cluster(arguments, progress);
    if !arguments.keep {
        Cluster::down(CLUSTER)?;
    }
    result
}

fn on_cluster(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let archives = images::build(progress)?;
    let cluster = progress.step("a cluster of two nodes", || {
        let spec = Spec {
            name: CLUSTER.to_owned(),
            ..Spec::default()
        };
        Cluster::up(&spec, &|message| progress.note(message))
    })?;
    images::load(&cluster, &archives, progress)?;
    let mesh = [
        "test",
        "--locked",
        "--package",
        "ambit-e2e",
        "--features",
        "cluster",
        "--test",
        "mesh",
    ];
    progress.step("compile the tests on the cluster", || {
        workspace::run(cargo(&mesh).args(["--quiet", "--no-run"]))
    })?;
    progress.note("tests on the cluster; it is removed after them");
    let mut test = cargo(&mesh);
    // Where an error comes from is in its words; traces of the test harness only hide them.
    test.env("AMBIT_TEST_CLUSTER", CLUSTER)
        .env("RUST_BACKTRACE", "0")
        .args(["--", "--test-threads=1"])
        .args(&arguments.filter);
    workspace::run(&mut test)
}
