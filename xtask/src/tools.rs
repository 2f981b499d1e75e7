//! Tools of the developer commands that the distribution lacks: built once, cached.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::workspace::{self, cargo};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// The path of cargo-deny; installed first if it is missing.
pub(crate) fn cargo_deny(progress: &Progress) -> Result<PathBuf> {
    let dir = ambit_e2e::tools::cache_dir()?
        .join("tools")
        .join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
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
        "--quiet",
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
    workspace::run(&mut install).context("cannot install cargo-deny")?;
    fs::rename(&part, &dir).with_context(|| format!("cannot move {} into place", part.display()))?;
    Ok(program)
}
