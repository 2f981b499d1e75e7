//! Flagger, which drives canaries: built from its Go module.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Progress;
use super::build::{go_module, module_folder};

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
    let package = format!("{MODULE}/cmd/flagger");
    let why = "it drives a canary (about 4 minutes, once)";
    let dir = go_module("flagger", "Flagger", why, &[&package], progress, |module, out| {
        let from = module_folder(module, MODULE)?.join(DEFINITIONS);
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(fs::write(out.join("crd.yaml"), text)?)
    })?;
    Ok(Flagger { dir })
}
