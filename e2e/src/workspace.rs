//! Where the project lies.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The root of the work tree: around the package that cargo runs, else around the current folder.
///
/// The folder in which this was compiled is not the place to look: it would be in programs of a release, and cargo compares
/// times of files, so with one target folder for two work trees it may start what it compiled for the other one.
#[must_use]
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let folder = package.or_else(|| env::current_dir().ok()).unwrap_or_default();
        around(&folder).unwrap_or(&folder).to_owned()
    })
}

/// The work tree that has a folder.
fn around(folder: &Path) -> Option<&Path> {
    folder
        .ancestors()
        .find(|folder| folder.join("charts/ambit/Chart.yaml").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_of_the_work_tree_is_in_it() {
        let root = workspace();
        assert!(root.join("Cargo.lock").is_file(), "{}", root.display());
        for folder in ["", "e2e", "e2e/sample/src"] {
            assert_eq!(around(&root.join(folder)), Some(root), "{folder}");
        }
        assert_eq!(around(Path::new("/")), None);
    }
}
