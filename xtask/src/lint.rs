//! `cargo xtask lint`: checks that need no cluster and no test.

use anyhow::Result;

use crate::progress::Progress;
use crate::workspace::{self, cargo};
use crate::{alerts, chart, crds, dashboards, tools};

/// The fuzz targets are a workspace of their own.
const FUZZ: &str = "fuzz/Cargo.toml";

/// Runs every check; the first failure ends it.
pub(crate) fn run(progress: &Progress) -> Result<()> {
    progress.step("format", || {
        workspace::run(&mut cargo(&["fmt", "--all", "--check"]))?;
        workspace::run(&mut cargo(&["fmt", "--check", "--manifest-path", FUZZ]))
    })?;
    progress.step("workflows", || workflows(progress))?;
    progress.step("generated definitions", || crds::check(progress))?;
    progress.step("generated dashboards", dashboards::check)?;
    progress.step("alerts", || alerts::check(progress))?;
    progress.step("the chart", || {
        chart::check(progress)?;
        chart::lint(progress)
    })?;
    progress.step("clippy", || {
        // Includes the tests that need a cluster, and the features that the fuzz targets use.
        let what = [
            "--workspace",
            "--all-targets",
            "--features",
            "ambit-e2e/cluster,ambit-agent/testing,ambit-waypoint/testing,ambit-ztunnel/testing",
            "--locked",
        ];
        let clippy = [&["clippy", "--quiet"], &what[..], &["--", "-D", "warnings"]].concat();
        workspace::run(&mut cargo(&clippy))
    })?;
    // Includes those of other platforms: nothing here is built from them, but the next step reads them.
    progress.step("fetch the sources of all dependencies", || {
        workspace::run(&mut cargo(&["fetch", "--quiet", "--locked"]))?;
        workspace::run(&mut cargo(&[
            "fetch",
            "--quiet",
            "--locked",
            "--manifest-path",
            FUZZ,
        ]))
    })?;
    progress.step("dependencies: licences, bans, sources", || {
        let deny = tools::cargo_deny(progress)?;
        // The database of advisories has to be downloaded: that is a command of its own.
        let check = ["check", "bans", "licenses", "sources"];
        for manifest in ["Cargo.toml", FUZZ] {
            let mut deny = std::process::Command::new(&deny);
            deny.args([
                "--offline",
                "--workspace",
                "--log-level",
                "error",
                "--manifest-path",
                manifest,
            ]);
            workspace::run(
                deny.args(["--config", "deny.toml"])
                    .args(check)
                    .current_dir(workspace::root()),
            )?;
        }
        Ok(())
    })
}

/// The workflows in `.github` are valid, as far as can be told without running them.
fn workflows(progress: &Progress) -> Result<()> {
    let actionlint = ambit_e2e::tools::actionlint(&|message| progress.note(message))?;
    let mut check = std::process::Command::new(actionlint);
    // The result must not depend on what else is installed.
    check.args(["-shellcheck=", "-pyflakes="]);
    workspace::run(check.current_dir(workspace::root()))
}
