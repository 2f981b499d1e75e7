//! What the cluster is made with: found where it is installed, installed where it is not, and cached.
//!
//! Three sources: packages of the distribution ([`ensure_packages`]), the Go module in `e2e/cluster` ([`kubernetes`]), and
//! Helm ([`helm`]). Each tells through `progress` what it installs and why. What is built lies in a cache folder of the user,
//! so that several clones of the project share it.

mod apt;
mod build;
mod image;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use apt::{Package, ensure, ensure_packages};
pub(crate) use build::{COREDNS_IMAGE, IMAGES, PAUSE_IMAGE};
pub use build::{HELM_VERSION, KUBERNETES_VERSION, Kubernetes, helm, kubernetes};

/// A listener for one-line messages on what is being done.
pub type Progress<'a> = &'a dyn Fn(&str);

/// The project's cache folder: `${XDG_CACHE_HOME:-~/.cache}/ambit`.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("ambit"))
}

/// How to undo what this module installs.
pub fn uninstall_hint() -> String {
    let cache = cache_dir().map_or_else(|_| "~/.cache/ambit".into(), |dir| dir.display().to_string());
    format!(
        "cargo xtask cluster down for each cluster, then: rm -rf {cache}; apt-get remove {}",
        apt::names().join(" ")
    )
}

/// An exclusive lock on `path`, held until the file is dropped or the process ends, however it ends.
pub(crate) fn lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
