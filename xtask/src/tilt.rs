//! `cargo xtask tilt`: Tilt on a cluster of this machine, with the programs that the Tiltfile calls in PATH.

mod check;
mod edit;

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::preflight::{self, Work};
use ambit_e2e::tools;
use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{tools as first, workspace};

pub(crate) use check::{CLUSTER, check};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cluster's name. If there is none, it is created; it stays until `cargo xtask cluster down`.
    #[arg(long, default_value = "ambit")]
    name: String,
    /// Arguments of Tilt: `up`, `ci`, `down`, `trigger enrol`, `logs ztunnel`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "up")]
    arguments: Vec<OsString>,
}

/// Tilt's commands that serve web pages.
const SERVING: [&str; 2] = ["up", "ci"];

/// Runs the command: this process becomes Tilt.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let words: Vec<&OsString> = arguments.arguments.iter().collect();
    let existing = match serves(&words) {
        true => None,
        false => Some(Cluster::attach(&arguments.name)?),
    };
    let tilt = Tilt::prepare(&arguments.name, existing, true, progress)?;
    Err(tilt.command(&words)?.exec()).context("cannot start Tilt")
}

/// Tilt, and a cluster for it.
struct Tilt {
    cluster: Cluster,
    program: PathBuf,
    helm: PathBuf,
}

impl Tilt {
    /// Builds Tilt and the tools of a cluster if they never were; then, if no cluster is given, creates that of this name unless it is up.
    /// With `pages`, Tilt's web pages are built too, where that is possible.
    fn prepare(name: &str, existing: Option<Cluster>, pages: bool, progress: &Progress) -> Result<Self> {
        if existing.is_none() {
            preflight::check(&Work {
                cluster: true,
                target: Some(&workspace::target()),
                ..Work::default()
            })?;
        }
        // First what takes minutes: a cluster that waits takes time from it.
        let program = first::for_tilt(pages, progress)?;
        let helm = tools::helm(&|message| progress.note(message))?;
        let cluster = match existing {
            Some(cluster) => cluster,
            None => progress.step(&format!("cluster {name}"), || up(name, progress))?,
        };
        Ok(Self {
            cluster,
            program,
            helm,
        })
    }

    /// Tilt with these arguments.
    fn command(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.current_dir(workspace::root()).args(words);
        if serves(words) {
            // A Tilt that was built from source looks for a web server of its own developers.
            command.arg("--web-mode=prod");
        }
        let folders = [
            Some(self.cluster.programs()),
            self.helm.parent(),
            self.program.parent(),
        ];
        command.env("PATH", path(folders.into_iter().flatten())?);
        command.env("KUBECONFIG", self.cluster.kubeconfig());
        // Tilt's own state is in the cache, and is removed with it.
        let state = tools::cache_dir()?.join("tilt");
        for name in ["TILT_DEV_DIR", "XDG_STATE_HOME", "XDG_DATA_HOME"] {
            command.env(name, &state);
        }
        command.env("DO_NOT_TRACK", "1");
        Ok(command)
    }
}

/// The cluster of this name: one that is up stays as it is, whatever its size.
fn up(name: &str, progress: &Progress) -> Result<Cluster> {
    if Cluster::status(name)?.healthy() {
        return Cluster::attach(name);
    }
    let spec = Spec {
        name: name.to_owned(),
        ..Spec::default()
    };
    Cluster::up(&spec, &|message| progress.note(message))
}

/// Whether Tilt serves pages with these arguments, and needs a cluster.
fn serves(words: &[impl AsRef<std::ffi::OsStr>]) -> bool {
    words
        .first()
        .is_some_and(|first| SERVING.iter().any(|serving| first.as_ref() == *serving))
}

/// PATH with folders in front of it.
fn path<'a>(folders: impl Iterator<Item = &'a Path>) -> Result<OsString> {
    let present = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = folders
        .map(Path::to_owned)
        .chain(env::split_paths(&present))
        .collect();
    env::join_paths(all).context("a folder of PATH has a colon in its name")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::workspace;

    #[test]
    fn the_test_of_the_button_exists() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let (tiltfile, guide) = (read("Tiltfile"), read("CONTRIBUTING.md"));
        let name = tiltfile.split_once("FILTER = \"").unwrap().1;
        let name = name.split('"').next().unwrap();
        assert!(read("e2e/tests/mesh/authorization.rs").contains(&format!("fn {name}()")));
        assert!(guide.contains(&format!("--show-output {name}\n")));
    }
}
