//! Argo CD, which applies what is in git: built from its Go module.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::build::{fingerprint, go, go_build, install, module_folder};
use super::{Progress, cache_dir, lock};

/// The version of Argo CD that applies what is in git; `e2e/argocd/go.mod` requires the same.
const VERSION: &str = "3.2.1";

/// The Go module.
const MODULE: &str = "github.com/argoproj/argo-cd/v3";

/// Files of the module that a cluster with Argo CD needs.
const MANIFESTS: &[&str] = &[
    "manifests/crds/application-crd.yaml",
    "manifests/crds/appproject-crd.yaml",
    "manifests/base/config/argocd-cm.yaml",
];

/// Argo CD, built from its Go module.
#[derive(Debug, Clone)]
pub struct ArgoCdPrograms {
    dir: PathBuf,
}

impl ArgoCdPrograms {
    /// All programs of Argo CD in one: `ARGOCD_BINARY_NAME` is the name of the program to run.
    pub fn argocd(&self) -> PathBuf {
        self.dir.join("argocd")
    }

    /// The status of an object by kstatus, and tests in Argo CD's Lua engine: see `e2e/argocd/judge`.
    pub fn judge(&self) -> PathBuf {
        self.dir.join("judge")
    }

    /// The CustomResourceDefinitions of Argo CD, and its default configuration.
    pub fn manifests(&self) -> Vec<PathBuf> {
        let names = MANIFESTS.iter().filter_map(|path| Path::new(path).file_name());
        names.map(|name| self.dir.join(name)).collect()
    }
}

fn module() -> PathBuf {
    crate::workspace().join("e2e/argocd")
}

fn dir(cache: &Path) -> Result<PathBuf> {
    Ok(cache.join(format!("argocd-{VERSION}-{}", &fingerprint(&module())?[..16])))
}

/// Whether this version of Argo CD was built.
pub(crate) fn argocd_built() -> Result<bool> {
    Ok(dir(&cache_dir()?.join("tools"))?.is_dir())
}

/// Argo CD, built first if this version never was.
///
/// # Errors
/// When Go is missing, or a program does not build.
pub fn argocd(progress: Progress) -> Result<ArgoCdPrograms> {
    let module = module();
    let cache = cache_dir()?.join("tools");
    let dir = dir(&cache)?;
    let _lock = lock(&cache.join("argocd.lock"))?;
    if !dir.is_dir() {
        progress(&format!(
            "building Argo CD {VERSION} from its Go module: it applies what is in git (about 4 minutes, once)"
        ));
        install(&dir, |out| {
            let version = format!("-s -w -X {MODULE}/common.version={VERSION}");
            for (program, package) in [("argocd", format!("{MODULE}/cmd")), ("judge", "./judge".into())] {
                let mut go = go()?;
                go.current_dir(&module)
                    .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                    .args(["-ldflags", &version, "-o"])
                    .arg(out.join(program));
                go_build(&mut go, &[&package], "Argo CD", progress)?;
            }
            let source = module_folder(&module, MODULE)?;
            for path in MANIFESTS {
                let from = source.join(path);
                let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
                fs::write(out.join(from.file_name().context("a file has a name")?), text)?;
            }
            Ok(())
        })?;
    }
    Ok(ArgoCdPrograms { dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_go_mod_requires() {
        let module = fs::read_to_string(crate::workspace().join("e2e/argocd/go.mod")).unwrap();
        assert!(module.contains(&format!("{MODULE} v{VERSION}\n")));
    }
}
