//! Flagger, which drives canaries: built from its Go module.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::build::{fingerprint, go, go_build, install, module_folder};
use super::{Progress, cache_dir, lock};

/// The Go module.
const MODULE: &str = "github.com/fluxcd/flagger";

/// The definitions of its kinds.
const DEFINITIONS: &str = "artifacts/flagger/crd.yaml";

/// Flagger, built from its Go module.
#[derive(Debug, Clone)]
pub struct Flagger {
    dir: PathBuf,
}

impl Flagger {
    /// The controller.
    pub fn program(&self) -> PathBuf {
        self.dir.join("flagger")
    }

    /// The CustomResourceDefinitions of its kinds.
    pub fn definitions(&self) -> PathBuf {
        self.dir.join("crd.yaml")
    }
}

/// Flagger, built first if this version never was.
///
/// # Errors
/// When Go is missing, or it does not build.
pub fn flagger(progress: Progress) -> Result<Flagger> {
    let module = crate::workspace().join("e2e/flagger");
    let cache = cache_dir()?.join("tools");
    let dir = cache.join(format!("flagger-{}", &fingerprint(&module)?[..16]));
    let _lock = lock(&cache.join("flagger.lock"))?;
    if !dir.is_dir() {
        progress("building Flagger from its Go module: it drives a canary (about 4 minutes, once)");
        install(&dir, |out| {
            let mut go = go()?;
            go.current_dir(&module)
                .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                .args(["-ldflags", "-s -w", "-o"])
                .arg(format!("{}/", out.display()));
            let package = format!("{MODULE}/cmd/flagger");
            go_build(&mut go, &[&package], "Flagger", progress)?;
            let from = module_folder(&module, MODULE)?.join(DEFINITIONS);
            let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            Ok(fs::write(out.join("crd.yaml"), text)?)
        })?;
    }
    Ok(Flagger { dir })
}
