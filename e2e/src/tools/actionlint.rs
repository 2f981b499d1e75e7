//! actionlint, which checks the workflows in `.github`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::build::{fingerprint, go, install};
use super::{Progress, cache_dir, lock};
use crate::shell;

/// The path of actionlint, built first if this version never was.
///
/// # Errors
/// When it cannot be built, without Go for example.
pub fn actionlint(progress: Progress) -> Result<PathBuf> {
    let module = crate::workspace().join("e2e/actionlint");
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("actionlint-{}", &fingerprint(&module)?[..16]));
    let _lock = lock(&cache.join("actionlint.lock"))?;
    if !dir.is_dir() {
        progress(
            "building actionlint from its Go module: it checks the workflows in .github (under a minute, once)",
        );
        install(&dir, |out| {
            let mut go = go()?;
            go.current_dir(&module)
                .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                .args(["-ldflags", "-s -w", "-o"])
                .arg(format!("{}/", out.display()));
            shell::run(go.arg("github.com/rhysd/actionlint/cmd/actionlint"))
                .context("cannot build actionlint")?;
            Ok(())
        })?;
    }
    Ok(dir.join("actionlint"))
}
