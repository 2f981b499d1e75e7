//! actionlint, which checks the workflows in `.github`.

use std::path::PathBuf;

use anyhow::Result;

use super::Progress;
use super::build::go_module;

/// The path of actionlint, built first if this version never was.
///
/// # Errors
/// When it cannot be built, without Go for example.
pub fn actionlint(progress: Progress) -> Result<PathBuf> {
    let package = "github.com/rhysd/actionlint/cmd/actionlint";
    let why = "it checks the workflows in .github (under a minute, once)";
    let dir = go_module("actionlint", "actionlint", why, &[package], progress, |_, _| {
        Ok(())
    })?;
    Ok(dir.join("actionlint"))
}
