//! What takes minutes to build, once: tools of the developer commands that the distribution lacks, and the first
//! images.

use std::fs;
use std::path::PathBuf;

use ambit_e2e::tools;
use anyhow::{Context, Result};

use crate::beside::{Job, side_by_side};
use crate::images::{self, Profile};
use crate::progress::Progress;
use crate::workspace::{self, cargo};

const CARGO_DENY_VERSION: &str = "0.20.2";

// Not measured: an estimate of the memory that each build takes at most, in MiB: two jobs of rustc or of Go's compiler and linker.
const RUST: u64 = 4000;
const KUBERNETES: u64 = 3500;
const HELM: u64 = 2000;
const H2SPEC: u64 = 1000;
const TILT: u64 = 3500;

/// All that a cluster with Ambit takes, side by side where it has to be built; returns the archives of the images.
pub(crate) fn for_cluster(progress: &Progress) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    let mut jobs = vec![job("images", RUST, || {
        archives = images::build(Profile::Everyday, progress)?;
        Ok(())
    })];
    jobs.extend(kubernetes_and_helm(progress)?);
    side_by_side(jobs, progress)?;
    Ok(archives)
}

/// Tilt, with its web pages if asked for, and what its cluster takes, side by side where it has to be built; returns the path of Tilt.
pub(crate) fn for_tilt(pages: bool, progress: &Progress) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    let mut jobs = kubernetes_and_helm(progress)?;
    jobs.push(job("Tilt", TILT, || {
        path = tools::tilt(pages, &|message| progress.note(message))?;
        Ok(())
    }));
    side_by_side(jobs, progress)?;
    Ok(path)
}

/// The tools of all tests, side by side where they have to be built.
pub(crate) fn for_tests(progress: &Progress) -> Result<()> {
    let mut jobs = Vec::new();
    if !deny_dir()?.exists() {
        jobs.push(job("cargo-deny", RUST, || cargo_deny(progress).map(drop)));
    }
    jobs.extend(kubernetes_and_helm(progress)?);
    jobs.push(job("h2spec", H2SPEC, || {
        tools::h2spec(&|message| progress.note(message)).map(drop)
    }));
    side_by_side(jobs, progress)
}

fn kubernetes_and_helm(progress: &Progress) -> Result<Vec<Job<'_>>> {
    if tools::go_built()? {
        return Ok(Vec::new());
    }
    Ok(vec![
        job("Kubernetes", KUBERNETES, || {
            tools::kubernetes(&|message| progress.note(message)).map(drop)
        }),
        job("Helm", HELM, || {
            tools::helm(&|message| progress.note(message)).map(drop)
        }),
    ])
}

fn job<'a>(name: &'static str, memory: u64, work: impl FnOnce() -> Result<()> + Send + 'a) -> Job<'a> {
    let work = Box::new(work);
    Job { name, memory, work }
}

fn deny_dir() -> Result<PathBuf> {
    let name = format!("cargo-deny-{CARGO_DENY_VERSION}");
    Ok(tools::cache_dir()?.join("tools").join(name))
}

/// The path of cargo-deny; installed first if it is missing.
pub(crate) fn cargo_deny(progress: &Progress) -> Result<PathBuf> {
    let dir = deny_dir()?;
    let program = dir.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    progress.note(&format!(
        "installing cargo-deny {CARGO_DENY_VERSION} into {}: it checks licences and bans of dependencies (a few minutes, once)",
        dir.display()
    ));
    let part = dir.with_extension("part");
    let mut install = cargo(&[
        "install",
        "--locked",
        "cargo-deny",
        "--version",
        CARGO_DENY_VERSION,
    ]);
    install
        .arg("--root")
        .arg(&part)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    workspace::build(&mut install, "cargo-deny", progress).context("cannot install cargo-deny")?;
    fs::rename(&part, &dir).with_context(|| format!("cannot move {} into place", part.display()))?;
    Ok(program)
}
