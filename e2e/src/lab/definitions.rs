//! Kinds of the Gateway API, which the cluster has during some tests only.

use anyhow::Result;

use super::Lab;
use crate::tools;

/// Definitions of kinds, until the end of a test.
pub struct Definitions<'a> {
    lab: &'a Lab,
    files: Vec<String>,
}

impl<'a> Definitions<'a> {
    /// Installs those of these kinds, by their plural names.
    ///
    /// # Errors
    /// When they cannot be had, or are refused.
    pub fn install(lab: &'a Lab, kinds: &[&str]) -> Result<Self> {
        let folder = tools::gateway_definitions(&|message| println!("{message}"))?;
        let file = |kind: &&str| {
            // Names of experimental kinds begin with this letter.
            let group = match kind.starts_with('x') {
                true => "gateway.networking.x-k8s.io",
                false => "gateway.networking.k8s.io",
            };
            folder.join(format!("{group}_{kind}.yaml"))
        };
        let files = kinds
            .iter()
            .map(|kind| format!("--filename={}", file(kind).display()));
        let definitions = Self {
            lab,
            files: files.collect(),
        };
        definitions.kubectl(&["apply", "--server-side", "--force-conflicts"])?;
        Ok(definitions)
    }

    /// Removes them, and all objects of these kinds.
    ///
    /// # Errors
    /// When they do not go.
    pub fn remove(self) -> Result<()> {
        self.kubectl(&["delete", "--ignore-not-found", "--timeout=2m"])
    }

    fn kubectl(&self, verb: &[&str]) -> Result<()> {
        let files = self.files.iter().map(String::as_str);
        let words: Vec<&str> = verb.iter().copied().chain(files).collect();
        self.lab.cluster.run_kubectl(&words).map(drop)
    }
}
