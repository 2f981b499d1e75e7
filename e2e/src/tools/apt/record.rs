//! Which packages were installed on the way: those may go again, and none that was there before.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::tools::{cache_dir, lock};

/// A file in the user's cache, one name on each line.
pub(super) struct Record {
    file: PathBuf,
}

impl Record {
    /// That of this user.
    pub(super) fn of_user() -> Result<Self> {
        Ok(Self {
            file: cache_dir()?.join("installed-packages"),
        })
    }

    /// Adds names; one that is there stays there once.
    pub(super) fn add(&self, names: &BTreeSet<String>) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let _lock = lock(&self.file.with_extension("lock"))?;
        let all: Vec<String> = self.names()?.union(names).cloned().collect();
        let part = self.file.with_extension("part");
        fs::write(&part, all.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &self.file).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// All that were added.
    pub(super) fn names(&self) -> Result<BTreeSet<String>> {
        match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            text => {
                let text = text.with_context(|| format!("cannot read {}", self.file.display()))?;
                Ok(text.lines().map(str::to_owned).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_installs_are_recorded_once() {
        let dir = std::env::temp_dir().join(format!("ambit-e2e-record-{}", std::process::id()));
        let record = Record {
            file: dir.join("cache/installed-packages"),
        };
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(record.names().unwrap(), set(&[]));
        record.add(&set(&[])).unwrap();
        assert!(!dir.exists(), "nothing was installed, so nothing is written");
        record.add(&set(&["runc", "containerd"])).unwrap();
        record.add(&set(&["nginx", "runc"])).unwrap();
        assert_eq!(record.names().unwrap(), set(&["containerd", "nginx", "runc"]));
        fs::remove_dir_all(dir).unwrap();
    }
}
