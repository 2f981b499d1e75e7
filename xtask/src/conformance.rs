//! `cargo xtask conformance`: the Gateway API's conformance tests of a mesh, on a cluster of this machine.

mod output;
mod report;

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::preflight::{self, Work};
use ambit_e2e::{mesh, tools};
use anyhow::{Context, Result, bail, ensure};

use crate::progress::Progress;
use crate::{images, tools as first, workspace};
use output::{Outcome, Verdict};

/// The cluster of these tests.
pub(crate) const CLUSTER: &str = "ambit-conformance";

/// What the suite calls a set of tests whose results a report counts. No other is about meshes.
const PROFILES: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];

/// Labels of the namespaces of the tests. A waypoint stands from the beginning: it takes some seconds where the first route asks for one, and
/// the test of a GRPCRoute's weights gives up after ten tries, less than two seconds later.
const LABELS: [&str; 2] = [mesh::ENROLL, "istio.io/use-waypoint=waypoint"];

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests of these names, a regular expression: `MeshPorts`, `Redirect`. No report is written.
    filter: Option<String>,
    /// Keep the cluster, and use it again next time.
    #[arg(long)]
    keep: bool,
}

/// Runs the command. If every test passes, the report is written to `docs/conformance`.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    preflight::check(&Work {
        cluster: true,
        target: Some(&workspace::target()),
        ..Work::default()
    })?;
    let result = play(arguments.filter.as_deref(), progress);
    if !arguments.keep {
        progress.step("remove the cluster", || Cluster::down(CLUSTER))?;
    }
    if let Some(report) = result? {
        for file in report::keep(&report)? {
            progress.note(&format!("written: {}", file.display()));
        }
    }
    Ok(())
}

/// Runs all tests and keeps no report. The cluster is left to the caller.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    play(None, progress).map(drop)
}

/// Runs the tests, and returns the report of all of them.
fn play(filter: Option<&str>, progress: &Progress) -> Result<Option<PathBuf>> {
    let note = |message: &str| progress.note(message);
    let tests = tools::conformance(&note)?;
    let archives = first::for_cluster(progress)?;
    let cluster = progress.step("a cluster of two nodes", || {
        let spec = Spec {
            name: CLUSTER.to_owned(),
            ..Spec::default()
        };
        Cluster::up(&spec, &note)
    })?;
    images::load(&cluster, &archives, progress)?;
    cluster.load_image(&tests.image())?;
    progress.step("the Gateway API's definitions, and Ambit", || {
        let definitions = tools::gateway_definitions(&note)?;
        let mut apply = cluster.kubectl();
        apply
            .args(["apply", "--server-side", "--kustomize"])
            .arg(definitions);
        workspace::output(&mut apply)?;
        mesh::install(&cluster, &note)?;
        images::renew(&cluster, &archives, progress)?;
        mesh::apply(&cluster, mesh::MESH)
    })?;
    let folder = workspace::target().join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let outcomes = progress.step("the tests", || {
        suite(&cluster, &tests.program(), filter, &folder, progress)
    })?;
    judge(&outcomes, &folder)?;
    if filter.is_some() {
        return Ok(None);
    }
    let report = folder.join(report::name());
    for line in report::summary(&report, &PROFILES)? {
        println!("{line}");
    }
    report::write_tests(&report, &outcomes)?;
    Ok(Some(report))
}

/// Runs the test program, and prints a line for each test on standard output.
fn suite(
    cluster: &Cluster,
    program: &Path,
    filter: Option<&str>,
    folder: &Path,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    let log = log_of(folder);
    let mut copy = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    progress.note(&format!("all output is in {}", log.display()));
    let mut command = Command::new(program);
    command
        .env("KUBECONFIG", cluster.kubeconfig())
        .current_dir(folder)
        // The format in which every line tells its test, at once.
        .args(["-test.v=test2json", "-test.run"])
        // Tests of gateways have other names.
        .arg(format!("TestConformance/^Mesh.*{}", filter.unwrap_or_default()))
        .arg(format!("--conformance-profiles={}", PROFILES.join(",")))
        .arg(format!("--namespace-labels={}", LABELS.join(",")));
    if filter.is_none() {
        command.args(report::implementation()?).arg(format!(
            "--report-output={}",
            folder.join(report::name()).display()
        ));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(copy.try_clone()?)
        .spawn()
        .context("cannot start the conformance tests")?;
    let lines = BufReader::new(child.stdout.take().context("no standard output")?);
    let outcomes = output::read(lines, &mut copy, |outcome| {
        // A closed pipe is not an error.
        let _ = writeln!(std::io::stdout(), "{outcome}");
    })?;
    let status = child.wait().context("the conformance tests were lost")?;
    let failed = outcomes.iter().any(|outcome| outcome.verdict == Verdict::Failed);
    ensure!(
        status.success() || failed,
        "the conformance tests ended with {status}; see {}",
        log.display()
    );
    Ok(outcomes)
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("conformance.log")
}

/// A skipped test is no passed one.
fn judge(outcomes: &[Outcome], folder: &Path) -> Result<()> {
    let count = |verdict: Verdict| {
        outcomes
            .iter()
            .filter(|outcome| outcome.verdict == verdict)
            .count()
    };
    let (passed, failed, skipped) = (
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped),
    );
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if passed == 0 || failed + skipped > 0 {
        bail!(
            "{failed} of {} conformance tests failed, {skipped} skipped; see {}",
            outcomes.len(),
            log_of(folder).display()
        );
    }
    Ok(())
}
