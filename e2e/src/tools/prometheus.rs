//! Prometheus and promtool, from the distribution's package, which is unpacked and not installed: an installation would
//! start a service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Progress, apt, cache_dir, lock};
use crate::shell;

/// The two programs.
#[derive(Debug, Clone)]
pub struct Prometheus {
    /// The server.
    pub server: PathBuf,
    /// The checker of rules.
    pub promtool: PathBuf,
}

/// The programs: those in PATH, or else those of the package, which is downloaded first if it never was.
///
/// # Errors
/// When the package cannot be had, on a system without apt for example.
pub fn prometheus(progress: Progress) -> Result<Prometheus> {
    if apt::present("prometheus") && apt::present("promtool") {
        return Ok(Prometheus {
            server: "prometheus".into(),
            promtool: "promtool".into(),
        });
    }
    if !apt::present("apt-get") {
        bail!("`prometheus` and `promtool` are not in PATH: install Prometheus 2.40 or later");
    }
    let tools = cache_dir()?.join("tools");
    let dir = tools.join("prometheus");
    let _lock = lock(&tools.join("prometheus.lock"))?;
    if !dir.is_dir() {
        progress(
            "fetching Prometheus with apt-get: alerts and dashboards are tested with it; it is not installed",
        );
        let part = tools.join("prometheus.part");
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        }
        fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        unpack(&part)?;
        fs::rename(&part, &dir).with_context(|| format!("cannot move {} into place", part.display()))?;
    }
    Ok(Prometheus {
        server: dir.join("usr/bin/prometheus"),
        promtool: dir.join("usr/bin/promtool"),
    })
}

fn unpack(dir: &Path) -> Result<()> {
    let download = || {
        shell::run(
            Command::new("apt-get")
                .args(["download", "-qq", "prometheus"])
                .current_dir(dir),
        )
    };
    // The lists may be missing, or older than what the archive has now.
    if download().is_err() {
        shell::run(Command::new("apt-get").args(["update", "-qq"]))
            .context("cannot refresh the package lists")?;
        download().context("cannot download the package prometheus")?;
    }
    let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    let [package] = entries.as_slice() else {
        bail!(
            "apt-get downloaded {} files to {}, not one",
            entries.len(),
            dir.display()
        );
    };
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package.path())
            .arg(dir),
    )?;
    fs::remove_file(package.path()).context("cannot remove the package")
}
