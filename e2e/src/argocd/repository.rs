//! The git repository that Argo CD reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{shell, tools};

/// What the examples have in place of a user's repository and registry.
const PLACEHOLDERS: [&str; 2] = ["https://git.example/ambit.git", "registry.example/ambit"];

/// A repository on this machine with one branch, `main`: the chart, and the examples with its own address in them.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// Makes it anew from the working tree; nothing is committed yet.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let repository = Self {
            folder: folder.to_owned(),
        };
        fs::create_dir_all(folder)?;
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        for part in ["charts/ambit", "examples/argocd"] {
            let to = folder.join(part);
            fs::create_dir_all(to.parent().context("a part has a folder")?)?;
            let mut copy = Command::new("cp");
            shell::run(copy.arg("--recursive").arg(crate::workspace().join(part)).arg(to))?;
        }
        let address = format!("file://{}", folder.display());
        let mut files = Vec::new();
        tools::list(&folder.join("examples"), &mut files)?;
        for file in files {
            let text = fs::read_to_string(&file)?;
            let text = text
                .replace(PLACEHOLDERS[0], &address)
                .replace(PLACEHOLDERS[1], "localhost/ambit")
                .replace("tag: 0.1.0", "tag: dev");
            fs::write(&file, text)?;
        }
        Ok(repository)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.folder.join(path)).with_context(|| format!("no {path} in the repository"))
    }

    /// Writes a file; [`Repository::commit`] commits it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.folder.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(file, text).with_context(|| format!("cannot write {path}"))
    }

    /// Replaces a text of a file, once.
    ///
    /// # Errors
    /// When the file does not have it.
    pub fn replace(&self, path: &str, from: &str, to: &str) -> Result<()> {
        let text = self.read(path)?;
        ensure!(text.contains(from), "no {from:?} in {path}:\n{text}");
        self.write(path, &text.replacen(from, to, 1))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.folder.join(path)).with_context(|| format!("cannot remove {path}"))
    }

    /// Commits all that has changed, and returns the commit.
    ///
    /// # Errors
    /// When nothing has changed.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", message])?;
        self.head()
    }

    /// The latest commit.
    ///
    /// # Errors
    /// When there is none.
    pub fn head(&self) -> Result<String> {
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.folder);
        for setting in [
            "user.name=test",
            "user.email=test@localhost",
            "commit.gpgsign=false",
        ] {
            git.args(["-c", setting]);
        }
        // A hook of git's runs tests with variables that name another repository.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            git.env_remove(name);
        }
        shell::run(git.args(arguments))
    }
}
