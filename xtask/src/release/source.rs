//! What a release is made of: a commit, its time and a version.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat};
use semver::Version;

use crate::workspace;

/// The commit that is released, and the release's name.
pub(super) struct Source {
    pub(super) version: Version,
    pub(super) commit: String,
    /// The time of everything that has one, in seconds since 1970: SOURCE_DATE_EPOCH where it is set, or the commit's.
    pub(super) time: u64,
    /// The work tree is not that of the commit.
    pub(super) dirty: bool,
}

impl Source {
    /// The commit that is checked out. `version` is its version; without one, that of Cargo.toml.
    pub(super) fn checked_out(version: Option<&str>) -> Result<Self> {
        let commit = git(&["rev-parse", "HEAD"])?;
        let time = match env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => time,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        Ok(Self {
            version: self::version(version, env!("CARGO_PKG_VERSION"))?,
            commit,
            time: time
                .parse()
                .with_context(|| format!("`{time}` is not a time in seconds since 1970"))?,
            dirty: !git(&["status", "--porcelain"])?.is_empty(),
        })
    }

    /// The time in the format of RFC 3339.
    pub(super) fn date(&self) -> Result<String> {
        let time = DateTime::from_timestamp(self.time.try_into()?, 0).context("the time is out of range")?;
        Ok(time.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            version: Version::new(1, 2, 3),
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            time: 1_700_000_000,
            dirty: false,
        }
    }
}

/// The notes are made of the log, which ends early in a shallow clone.
pub(super) fn ensure_history() -> Result<()> {
    if git(&["rev-parse", "--is-shallow-repository"])? == "true" {
        bail!(
            "the clone is shallow, so the release notes would miss commits: run `git fetch --unshallow --tags` first"
        );
    }
    Ok(())
}

/// The output of git in the work tree, without the end of the last line.
pub(super) fn git(arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    let output = workspace::output(git.args(arguments).current_dir(workspace::root()));
    let output = output.context("a release is made of a commit, in a clone of the repository")?;
    Ok(output.trim_end().to_owned())
}

/// The programs report the version of Cargo.toml, so the release has the same, or is a pre-release of it.
fn version(wanted: Option<&str>, cargo: &str) -> Result<Version> {
    let cargo = Version::parse(cargo)?;
    let Some(wanted) = wanted else { return Ok(cargo) };
    let text = wanted.strip_prefix('v').unwrap_or(wanted);
    let version = Version::parse(text)
        .with_context(|| format!("--version {wanted} is not a semantic version, like {cargo}"))?;
    if !version.build.is_empty() {
        bail!(
            "--version {wanted}: a tag of an image cannot hold the build metadata after `+`; leave that out"
        );
    }
    if (version.major, version.minor, version.patch) != (cargo.major, cargo.minor, cargo.patch) {
        bail!(
            "--version {wanted}: Cargo.toml says {cargo}, and the programs report that; release {cargo} or a pre-release of it, \
             like {cargo}-rc.1, or change `workspace.package.version` first"
        );
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_cargo_or_a_prerelease_of_it() {
        let of = |wanted| version(wanted, "0.2.0").map(|version| version.to_string());
        assert_eq!(of(None).unwrap(), "0.2.0");
        assert_eq!(of(Some("v0.2.0")).unwrap(), "0.2.0");
        assert_eq!(of(Some("0.2.0-rc.1")).unwrap(), "0.2.0-rc.1");
        for (wrong, reason) in [
            ("0.3.0", "Cargo.toml says 0.2.0"),
            ("two", "not a semantic version"),
            ("0.2.0+build", "build metadata"),
        ] {
            let error = of(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_date_is_in_utc() {
        assert_eq!(Source::example().date().unwrap(), "2023-11-14T22:13:20Z");
    }
}
