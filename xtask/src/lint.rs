//! `cargo xtask lint`: what needs no cluster and no test.

use anyhow::Result;

use crate::progress::Progress;
use crate::workspace::{self, cargo};
use crate::{crds, tools};

/// Runs every check; the first that fails ends it.
pub(crate) fn run(progress: &Progress) -> Result<()> {
    progress.step("format", || {
        workspace::run(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    progress.step("generated definitions", || crds::check(progress))?;
    progress.step("clippy", || {
        // With the tests that need a cluster.
        let what = [
            "--workspace",
            "--all-targets",
            "--features",
            "ambit-e2e/cluster",
            "--locked",
        ];
        let clippy = [&["clippy", "--quiet"], &what[..], &["--", "-D", "warnings"]].concat();
        workspace::run(&mut cargo(&clippy))
    })?;
    // Those of other platforms too, which nothing here is built from, but which the next step reads.
    progress.step("fetch the sources of all dependencies", || {
        workspace::run(&mut cargo(&["fetch", "--quiet", "--locked"]))
    })?;
    progress.step("dependencies: licences, bans, sources", || {
        let deny = tools::cargo_deny(progress)?;
        // The advisories' database has to be fetched from the net: an own, deliberate command.
        let check = [
            "--offline",
            "--workspace",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ];
        workspace::run(
            std::process::Command::new(deny)
                .args(check)
                .current_dir(workspace::root()),
        )
    })
}
