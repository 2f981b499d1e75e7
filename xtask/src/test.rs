//! `cargo xtask test`: everything that is checked, ending with the tests on a real cluster.

use std::process::Command;

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::tools;
use anyhow::{Result, bail};

use crate::progress::Progress;
use crate::workspace::{self, cargo};
use crate::{fuzz, images, lint, release};

/// The cluster of the tests; it is made anew and removed.
const CLUSTER: &str = "ambit-test";

/// One that a test makes beside it, and removes.
const CUT: &str = "ambit-cut";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests on the cluster, of these only those whose name contains this.
    filter: Option<String>,
    /// Also what is slow: the tests with the tools around a mesh (Argo CD, Prometheus, Helm's upgrades).
    #[arg(long)]
    all: bool,
    /// Leave the cluster up, and use it again next time.
    #[arg(long)]
    keep: bool,
}

/// A test program of `ambit-e2e` that needs the cluster.
const MESH: &str = "mesh";

/// The one that `--all` adds.
const PLATFORM: &str = "platform";

/// Runs the command. The last thing printed is the test runner's own summary.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    // Not only the cluster is made of them: tests without one make network namespaces, and look at their rules.
    tools::ensure_packages(&|message| progress.note(message))?;
    if arguments.filter.is_none() {
        lint::run(progress)?;
        let h2spec = tools::h2spec(&|message| progress.note(message))?;
        progress.step("tests that need no cluster", || {
            let mut test = cargo(&["test", "--workspace", "--locked"]);
            workspace::run(test.env("AMBIT_H2SPEC", h2spec))
        })?;
        fuzz::run_all(progress)?;
    }
    // What an earlier run left, killed half-way, must not decide the outcome of this one.
    clean_up(arguments.keep)?;
    let result = on_cluster(arguments, progress);
    both(result, clean_up(arguments.keep))
}

/// Takes down what there is of the clusters, but for one that is to stay.
fn clean_up(keep: bool) -> Result<()> {
    let cut = Cluster::down(CUT);
    let tested = if keep { Ok(()) } else { Cluster::down(CLUSTER) };
    both(cut, tested)
}

/// What went wrong first is what there is to know, and must not be lost over what came after it.
fn both(first: Result<()>, then: Result<()>) -> Result<()> {
    match (first, then) {
        (Err(first), Err(then)) => bail!("{first:#}; after that: {then:#}"),
        (first, then) => first.and(then),
    }
}

fn on_cluster(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let archives = images::build(progress)?;
    if arguments.all && arguments.filter.is_none() {
        progress.step("a release, packaged twice", || release::check(progress))?;
    }
    let cluster = progress.step("a cluster of two nodes", || {
        let spec = Spec {
            name: CLUSTER.to_owned(),
            ..Spec::default()
        };
        Cluster::up(&spec, &|message| progress.note(message))
    })?;
    images::load(&cluster, &archives, progress)?;
    images::renew(&cluster, &archives, progress)?;
    progress.step("the image of real software", || {
        cluster.load_image(&tools::software(&|message| progress.note(message))?)
    })?;
    let programs: &[&str] = if arguments.all { &[MESH, PLATFORM] } else { &[MESH] };
    progress.step("compile the tests on the cluster", || {
        programs
            .iter()
            .try_for_each(|program| workspace::run(program_of(program).args(["--quiet", "--no-run"])))
    })?;
    progress.note("tests on the cluster; it is removed after them");
    // A program that fails does not keep the next from running: there is more to know.
    let results = programs.iter().map(|program| {
        let mut test = program_of(program);
        // Where an error comes from is in its words; traces of the test harness only hide them.
        test.env("AMBIT_TEST_CLUSTER", CLUSTER)
            .env("RUST_BACKTRACE", "0")
            // What was measured is told of tests that pass, too.
            .args(["--", "--test-threads=1", "--show-output"])
            .args(&arguments.filter);
        workspace::run(&mut test)
    });
    results.reduce(both).unwrap_or(Ok(()))
}

/// `cargo test` of one program of `ambit-e2e`.
fn program_of(name: &str) -> Command {
    cargo(&[
        "test",
        "--locked",
        "--package",
        "ambit-e2e",
        "--features",
        "cluster",
        "--test",
        name,
    ])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_of_the_removal_hides_none_of_the_test() {
        let fail = |text: &'static str| Err(anyhow!(text));
        assert!(both(Ok(()), Ok(())).is_ok());
        assert_eq!(both(fail("test"), Ok(())).unwrap_err().to_string(), "test");
        assert_eq!(both(Ok(()), fail("down")).unwrap_err().to_string(), "down");
        let error = both(fail("test"), fail("down")).unwrap_err().to_string();
        assert_eq!(error, "test; after that: down");
    }

    #[test]
    fn every_cluster_that_tests_make_is_known_to_those_that_clean_up() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let named = format!("const NAME: &str = \"{CUT}\";");
        assert!(read("e2e/tests/mesh/cluster.rs").contains(&named));
        let ci = read(".ci/run");
        for name in [CLUSTER, CUT] {
            assert!(ci.contains(name), ".ci/run does not take {name} down");
        }
    }
}
