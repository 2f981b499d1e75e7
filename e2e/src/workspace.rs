//! Where the project lies.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The root of the work tree: as cargo says when it runs something, else where this was compiled.
///
/// Cargo compares times of files, so with one target folder for two work trees it may start what it compiled for the
/// other one.
#[must_use]
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let package = Path::new(&package);
        package.parent().unwrap_or(package).to_owned()
    })
}
