//! `cargo xtask test`: all checks, ending with the tests on a real cluster.

use std::process::Command;

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::preflight::{self, Work};
use ambit_e2e::{argocd, tools};
use anyhow::{Result, bail};

use crate::progress::Progress;
use crate::workspace::{self, cargo};
use crate::{conformance, demo, fuzz, images, lint, release, tilt, tools as first};

/// The cluster of the tests; it is created for them and removed.
const CLUSTER: &str = "ambit-test";

/// A cluster that a test creates beside it, and removes.
const CUT: &str = "ambit-cut";

/// Steps of `--all` that have a cluster of their own, by the filter that runs them alone.
const TILT: &str = "tilt";
const CONFORMANCE: &str = "conformance";
const DEMO: &str = "demo";

/// Which tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests on the cluster, and only those whose name contains this. With `--all`, `tilt`, `conformance` or `demo` is that
    /// step alone.
    filter: Option<String>,
    /// Also the slow tests: those with the tools around a mesh (Argo CD, Tilt, Prometheus, Helm's upgrades), the Gateway API's
    /// conformance tests, and the demo.
    #[arg(long)]
    all: bool,
    /// Keep the cluster, and use it again next time.
    #[arg(long)]
    keep: bool,
}

/// A test program of `ambit-e2e` that needs the cluster.
const MESH: &str = "mesh";

/// The test program that `--all` adds.
const PLATFORM: &str = "platform";

/// Runs the command. Its last output is the summary of the test runner.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    preflight::check(&Work {
        cluster: true,
        target: Some(&workspace::target()),
        tests: true,
        argocd: chosen(arguments, "argocd"),
    })?;
    // Not only for the cluster: tests without one make network namespaces, and inspect their rules.
    tools::ensure_packages(&|message| progress.note(message))?;
    if arguments.filter.is_none() {
        first::for_tests(progress)?;
        lint::run(progress)?;
        let h2spec = tools::h2spec(&|message| progress.note(message))?;
        progress.step("tests without a cluster", || {
            let mut test = cargo(&["test", "--workspace", "--locked"]);
            workspace::run(test.env("AMBIT_H2SPEC", h2spec))
        })?;
        fuzz::run_all(progress)?;
    }
    let mut result = Ok(());
    if chosen(arguments, TILT) {
        result = edits(progress);
    }
    if uses_cluster(arguments) {
        // The remains of an earlier, killed run must not decide the result of this one.
        clean_up(arguments.keep)?;
        result = both(result, on_cluster(arguments, progress));
        result = both(result, clean_up(arguments.keep));
    }
    if chosen(arguments, CONFORMANCE) {
        result = both(result, gateway_api(progress));
    }
    if chosen(arguments, DEMO) {
        result = both(result, demo(progress));
    }
    result
}

/// Whether `--all` runs a step of this name; with a filter, only if the filter is the name.
fn chosen(arguments: &Arguments, name: &str) -> bool {
    arguments.all && arguments.filter.as_ref().is_none_or(|filter| filter == name)
}

/// Whether the tests on the common cluster are run: not if the filter is a step with a cluster of its own.
fn uses_cluster(arguments: &Arguments) -> bool {
    arguments.filter.is_none()
        || ![TILT, CONFORMANCE, DEMO]
            .iter()
            .any(|step| chosen(arguments, step))
}

/// The demo, on a cluster of its own.
fn demo(progress: &Progress) -> Result<()> {
    let result = progress.step("the demo", || demo::check::run(progress));
    both(result, Cluster::down(demo::check::CLUSTER))
}

/// The Gateway API's conformance tests, on a cluster of their own.
fn gateway_api(progress: &Progress) -> Result<()> {
    Cluster::down(conformance::CLUSTER)?;
    let result = progress.step("the Gateway API's conformance tests", || {
        conformance::check(progress)
    });
    both(result, Cluster::down(conformance::CLUSTER))
}

/// The test of the Tiltfile, on a cluster of its own.
fn edits(progress: &Progress) -> Result<()> {
    Cluster::down(tilt::CLUSTER)?;
    let result = progress.step("Tilt", || tilt::check(progress));
    both(result, Cluster::down(tilt::CLUSTER))
}

/// Removes the clusters, except for one that is to stay.
fn clean_up(keep: bool) -> Result<()> {
    let cut = Cluster::down(CUT);
    let tested = if keep { Ok(()) } else { Cluster::down(CLUSTER) };
    both(cut, tested)
}

/// The first failure matters most, and must not be hidden by a later one.
fn both(first: Result<()>, then: Result<()>) -> Result<()> {
    match (first, then) {
        (Err(first), Err(then)) => bail!("{first:#}; after that: {then:#}"),
        (first, then) => first.and(then),
    }
}

fn on_cluster(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let archives = first::for_cluster(progress)?;
    if chosen(arguments, "argocd") {
        // Built before the cluster is up: both need the memory of the machine.
        argocd::prepare(&|message| progress.note(message))?;
    }
    if chosen(arguments, "release") {
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
    progress.step("the images of real software", || {
        cluster.load_image(&tools::software(&|message| progress.note(message))?)?;
        cluster.load_image(&tools::interop(&|message| progress.note(message))?)
    })?;
    let programs: &[&str] = if arguments.all { &[MESH, PLATFORM] } else { &[MESH] };
    progress.step("compile the tests on the cluster", || {
        programs
            .iter()
            .try_for_each(|program| workspace::run(program_of(program).args(["--quiet", "--no-run"])))
    })?;
    progress.note(if arguments.keep {
        "tests on the cluster"
    } else {
        "tests on the cluster; it is removed after them"
    });
    // If one program fails, the next one runs nevertheless.
    let results = programs.iter().map(|program| {
        let mut test = program_of(program);
        // The messages name the cause of an error; backtraces of the test harness hide it.
        test.env("AMBIT_TEST_CLUSTER", CLUSTER)
            .env("RUST_BACKTRACE", "0")
            // Shows the measurements of passing tests, too.
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
    fn removal_error_hides_no_test_error() {
        let fail = |text: &'static str| Err(anyhow!(text));
        assert!(both(Ok(()), Ok(())).is_ok());
        assert_eq!(both(fail("test"), Ok(())).unwrap_err().to_string(), "test");
        assert_eq!(both(Ok(()), fail("down")).unwrap_err().to_string(), "down");
        let error = both(fail("test"), fail("down")).unwrap_err().to_string();
        assert_eq!(error, "test; after that: down");
    }

    #[test]
    fn a_step_with_its_own_cluster_runs_alone_or_with_everything() {
        let runs = |all, filter: Option<&str>| {
            let filter = filter.map(str::to_owned);
            let arguments = &Arguments {
                filter,
                all,
                keep: false,
            };
            (
                chosen(arguments, TILT),
                uses_cluster(arguments),
                chosen(arguments, DEMO),
            )
        };
        assert_eq!(runs(true, None), (true, true, true));
        assert_eq!(runs(true, Some("tilt")), (true, false, false));
        assert_eq!(runs(true, Some("demo")), (false, false, true));
        assert_eq!(runs(true, Some("upgrade")), (false, true, false));
        assert_eq!(runs(false, None), (false, true, false));
        assert_eq!(runs(false, Some("tilt")), (false, true, false));
    }

    #[test]
    fn every_test_cluster_is_cleaned_up() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let named = format!("const NAME: &str = \"{CUT}\";");
        assert!(read("e2e/tests/mesh/cluster.rs").contains(&named));
        let ci = read(".ci/run");
        for name in [
            CLUSTER,
            CUT,
            conformance::CLUSTER,
            demo::check::CLUSTER,
            tilt::CLUSTER,
        ] {
            assert!(ci.contains(name), ".ci/run does not take {name} down");
        }
    }
}
