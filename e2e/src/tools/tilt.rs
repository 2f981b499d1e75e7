//! Tilt, which brings edits into a running cluster: built from its Go module, with its web pages where Node is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::build::{fingerprint, go, go_build, install};
use super::{Progress, apt, cache_dir, lock};
use crate::{long, shell};

/// The module; `e2e/tilt/go.mod` says which version, `go.sum` what it must be made of.
const MODULE: &str = "github.com/tilt-dev/tilt";

/// Node of a version that builds the web pages.
const NODE: u32 = 18;

/// In place of the web pages.
const PLACEHOLDER: &str = "<!doctype html><title>Tilt</title><p>This Tilt was built without its web pages, for lack of Node 18 or later. \
    The terminal shows the same: press s for the log, or run <code>tilt logs -f</code>.";

/// The path of Tilt, built first if this version never was. With `pages`, its web pages are built too, unless Node is missing.
///
/// # Errors
/// When Go is missing, when the module is not what `go.sum` says, and when it does not build.
pub fn tilt(pages: bool, progress: Progress) -> Result<PathBuf> {
    let module = crate::workspace().join("e2e/tilt");
    let cache = cache_dir()?.join("tools");
    let print = fingerprint(&module)?[..16].to_owned();
    let (whole, plain) = (
        cache.join(format!("tilt-web-{print}")),
        cache.join(format!("tilt-{print}")),
    );
    let _lock = lock(&cache.join("tilt.lock"))?;
    if whole.is_dir() {
        return Ok(whole.join("tilt"));
    }
    let pages = pages && node();
    let dir = if pages { whole } else { plain };
    if !dir.is_dir() {
        let what = if pages {
            "and its web pages with Node (about 7 minutes, once)"
        } else {
            "without web pages (about 4 minutes, once)"
        };
        progress(&format!(
            "building Tilt from its Go module: it brings edits into a running cluster; {what}"
        ));
        install(&dir, |out| build(&module, out, pages, progress))?;
    }
    Ok(dir.join("tilt"))
}

/// The module is built as the main one, in a copy: its `replace` lines hold only so, and pages are embedded into it.
fn build(module: &Path, out: &Path, pages: bool, progress: Progress) -> Result<()> {
    let told = shell::run(
        go()?
            .current_dir(module)
            .args(["mod", "download", "-json", MODULE]),
    )
    .context("cannot fetch Tilt's Go module")?;
    let told: Value = serde_json::from_str(&told).context("`go mod download` printed no JSON")?;
    let fetched = told["Dir"]
        .as_str()
        .context("`go mod download` names no folder")?;
    let version = told["Version"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches('v');
    let source = out.join("source");
    // The module cache is read-only.
    shell::run(
        Command::new("cp")
            .args(["--recursive", "--no-preserve=mode", fetched])
            .arg(&source),
    )?;
    // A list without the modules in it; with it there, Go would look for them.
    fs::remove_dir_all(source.join("vendor")).context("Tilt's module has no vendor folder")?;
    let built = source.join("pkg/assets/build");
    if pages {
        web(&source.join("web"), progress)?;
        fs::remove_dir_all(&built).context("Tilt's module has no folder for web pages")?;
        fs::rename(source.join("web/build"), &built).context("Node built no web pages")?;
    } else {
        fs::write(built.join("index.html"), PLACEHOLDER)
            .context("Tilt's module has no folder for web pages")?;
    }
    let mut go = go()?;
    // It reads Starlark with a parser in C.
    go.env("CGO_ENABLED", "1")
        .env("GOWORK", "off")
        .current_dir(&source);
    go.args([
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-mod=readonly",
        "-tags=osusergo",
    ]);
    go.args(["-ldflags", &format!("-s -w -X main.version={version}"), "-o"])
        .arg(out.join("tilt"));
    go_build(&mut go, &["./cmd/tilt"], "Tilt", progress)?;
    fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))
}

/// Builds the pages with the Yarn that the module brings along, from exactly the packages that its lock file names.
fn web(dir: &Path, progress: Progress) -> Result<()> {
    for step in [&["install", "--immutable"][..], &["build"]] {
        let mut yarn = Command::new("node");
        yarn.current_dir(dir)
            .arg(".yarn/releases/yarn-4.1.0.cjs")
            .args(step);
        // No package's own script runs: none is needed for this.
        yarn.env("YARN_ENABLE_SCRIPTS", "0")
            .env("YARN_ENABLE_TELEMETRY", "0");
        yarn.env("GENERATE_SOURCEMAP", "false")
            .env("DISABLE_ESLINT_PLUGIN", "true");
        // Elsewhere, warnings about the pages' sources are errors.
        yarn.env("CI", "false");
        let name = format!("Tilt's web pages, yarn {}", step[0]);
        long::run(&mut yarn, &name, |_| None, progress).context("cannot build Tilt's web pages")?;
    }
    Ok(())
}

/// Whether Node is there, of a version that is new enough.
fn node() -> bool {
    let version = || shell::run(Command::new("node").arg("--version")).ok();
    apt::present("node") && version().is_some_and(|version| suits(&version))
}

/// Whether `v20.1.0` suits.
fn suits(version: &str) -> bool {
    let major = version.trim().trim_start_matches('v').split('.').next();
    major
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major >= NODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_node_suits_or_not() {
        assert!(suits("v18.0.0\n") && suits("v20.20.2"));
        assert!(!suits("v16.13.0") && !suits("") && !suits("node"));
    }

    #[test]
    fn go_mod_and_go_sum_name_one_version() {
        let read = |name: &str| fs::read_to_string(crate::workspace().join("e2e/tilt").join(name)).unwrap();
        let required = read("go.mod");
        let version = required
            .split(&format!("require {MODULE} "))
            .nth(1)
            .unwrap()
            .trim();
        let sums = read("go.sum");
        assert_eq!(sums.lines().count(), 2);
        assert!(
            sums.lines()
                .all(|line| line.starts_with(&format!("{MODULE} {version}"))),
            "{sums}"
        );
    }
}
