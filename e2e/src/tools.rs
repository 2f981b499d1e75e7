//! What the cluster is made with: found where it is installed, installed where it is not, and cached.
//!
//! Two sources: packages of the distribution ([`ensure_packages`]), and Go modules: that in `e2e/cluster` ([`kubernetes`]), Helm
//! ([`helm`]), kubeconform ([`kubeconform`]), h2spec ([`h2spec`]), gRPC's interoperation tests ([`interop`]), Tilt ([`tilt`]), Argo CD ([`argocd`]), Flagger ([`flagger`]) and the Gateway API's
//! conformance tests ([`conformance`]). Each tells through `progress` what it installs and why. What is built lies in a cache folder of the user,
//! so that several clones of the project share it.

mod actionlint;
mod apt;
mod argocd;
mod build;
mod conformance;
mod flagger;
mod image;
mod interop;
mod prometheus;
mod software;
mod tilt;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use actionlint::actionlint;
pub use apt::{BUILDAH, Package, ensure, ensure_packages, installed_here};
pub(crate) use apt::{missing_packages, present};
pub(crate) use argocd::argocd_built;
pub use argocd::{ArgoCdPrograms, argocd};
pub(crate) use build::{COREDNS_IMAGE, IMAGES, PAUSE_IMAGE, go, list};
pub use build::{
    HELM_VERSION, KUBERNETES_VERSION, Kubernetes, go_built, h2spec, helm, kubeconform, kubernetes,
    kubernetes_source,
};
pub use conformance::{ConformanceTests, GATEWAY_API_VERSION, conformance, gateway_definitions};
pub use flagger::{Flagger, flagger};
pub use image::write_image;
pub use interop::{INTEROP_IMAGE, interop};
pub use prometheus::{Prometheus, prometheus};
pub use software::{SOFTWARE_IMAGE, software};
pub use tilt::tilt;

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

/// The commands that remove what is there because of this module, and the clusters of these names.
///
/// # Errors
/// When it cannot be told what was installed.
pub fn how_to_undo(clusters: &[String]) -> Result<String> {
    let installed = installed_here()?;
    Ok(undo(clusters, installed, &cache_dir()?))
}

fn undo(clusters: &[String], packages: BTreeSet<String>, cache: &Path) -> String {
    let mut commands: Vec<String> = clusters
        .iter()
        .map(|name| format!("cargo xtask cluster down --name {name}"))
        .collect();
    let packages = Vec::from_iter(packages).join(" ");
    let note = if packages.is_empty() {
        "no package is on record as installed on the way"
    } else {
        commands.push(format!("apt-get remove {packages}"));
        "of packages, no other was installed by name; what came along with them: apt-get autoremove"
    };
    commands.push(format!("rm -rf {}", cache.display()));
    format!("{} ({note})", commands.join("; "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_names_installed_packages_only() {
        let cache = Path::new("/home/u/.cache/ambit");
        let packages = BTreeSet::from(["runc".to_owned(), "containerd".to_owned()]);
        let text = undo(&["demo".to_owned()], packages, cache);
        let commands = "cargo xtask cluster down --name demo; apt-get remove containerd runc; rm -rf /home/u/.cache/ambit (";
        assert!(text.starts_with(commands), "{text}");
        let text = undo(&[], BTreeSet::new(), cache);
        assert!(
            text.starts_with("rm -rf /home/u/.cache/ambit (no package"),
            "{text}"
        );
        assert!(!text.contains("apt-get"), "{text}");
    }
}
