//! Static binaries in seconds: the everyday build of the workspace, but for how the programs are linked.
//!
//! Flags that make a program static would, given to all of cargo, have every dependency compiled a second time. They only matter where a
//! program is linked, so this program stands before rustc (`RUSTC_WORKSPACE_WRAPPER`) and adds them there.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::images::Image;
use crate::workspace::{self, cargo};

/// Set for the compilers that cargo starts: then this program is the wrapper.
const WRAPS: &str = "AMBIT_XTASK_WRAPS_RUSTC";

/// Names of crates that are ours; build scripts are called otherwise.
const OURS: &str = "ambit_";

/// Compiles the parts, without optimization and only what changed; returns the folder they are in.
pub(super) fn binaries(parts: &[&Image]) -> Result<PathBuf> {
    // Of the whole workspace, so that features of dependencies are the same whichever parts are built, and none is compiled again.
    let mut build = cargo(&["build", "--locked", "--workspace"]);
    for part in parts {
        build.args(["--bin", part.binary]);
    }
    build.env("RUSTC_WORKSPACE_WRAPPER", wrapper()?).env(WRAPS, "1");
    workspace::run(build.env("CARGO_INCREMENTAL", "1"))?;
    Ok(workspace::target().join("debug"))
}

/// A path of this program that no other work tree has. Cargo keeps what different wrappers made apart, so two trees with one target folder
/// never get programs of each other.
fn wrapper() -> Result<PathBuf> {
    let this = env::current_exe().context("this program has no path")?;
    let hash = Sha256::digest(workspace::root().as_os_str().as_encoded_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let link = workspace::target().join(format!("images/dev/rustc-{hash}"));
    if fs::read_link(&link).is_ok_and(|target| target == this) {
        return Ok(link);
    }
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    if let Some(dir) = link.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    symlink(&this, &link).with_context(|| format!("cannot create {}", link.display()))?;
    Ok(link)
}

/// Becomes rustc, if cargo started this program in its place.
pub(crate) fn as_wrapper() -> Option<ExitCode> {
    env::var_os(WRAPS)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(&rustc);
    command.args(&arguments);
    if links(&arguments) {
        // Names of functions stay, for backtraces; the rest would only be copied into images.
        command.args(["-C", "target-feature=+crt-static", "-C", "strip=debuginfo"]);
        if in_path("mold") {
            command.args(["-C", "link-arg=-fuse-ld=mold"]);
        }
    }
    let error = command.exec();
    eprintln!("cannot start {}: {error}", rustc.display());
    Some(ExitCode::FAILURE)
}

/// Whether a program of ours is linked.
fn links(arguments: &[OsString]) -> bool {
    let value = |flag: &str| {
        let mut pairs = arguments.windows(2);
        pairs.find_map(|pair| (pair[0] == flag).then(|| pair[1].as_os_str()))
    };
    let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(OURS.as_bytes());
    value("--crate-type") == Some(OsStr::new("bin")) && value("--crate-name").is_some_and(ours)
}

fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_ours_are_static() {
        let links = |words: &str| links(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(links(
            "--crate-name ambit_ztunnel src/main.rs --crate-type bin --emit=link"
        ));
        assert!(!links(
            "--crate-name ambit_ztunnel src/lib.rs --crate-type lib --emit=link"
        ));
        assert!(!links(
            "--crate-name build_script_build build.rs --crate-type bin"
        ));
        assert!(!links("-vV") && !links("--crate-name"));
    }
}
