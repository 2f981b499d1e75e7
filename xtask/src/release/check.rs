//! A part of `cargo xtask test --all`: two packagings of the same programs have the same bytes, the chart is whole, and
//! another tool reads the images.

mod chart;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use ambit_e2e::tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::archive::sha256;
use super::dockerfile::Target;
use super::platform::PLATFORMS;
use super::{CHECKSUMS, Release, Source, released, remove};
use crate::images::{self, Profile};
use crate::progress::Progress;
use crate::workspace;

/// Not the one that the chart in the work tree has, so that every place that names a registry shows.
const REGISTRY: &str = "registry.example/ambit";

/// Packages the programs that `cargo xtask images` compiled twice, and compares the results.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    tools::ensure(&[tools::BUILDAH], &|message| progress.note(message))?;
    let dir = workspace::target().join("release-check");
    remove(&dir)?;
    let result = in_folder(&dir, progress);
    remove(&dir)?;
    result
}

fn in_folder(dir: &Path, progress: &Progress) -> Result<()> {
    let host = images::host()?;
    let platform = PLATFORMS.iter().find(|platform| platform.triple == host);
    let platform = platform.with_context(|| format!("no release is made for {host}"))?;
    let (one, other) = (dir.join("one"), dir.join("two/of-another-name"));
    for out in [&one, &other] {
        let release = Release {
            source: Source::checked_out(None)?,
            registry: REGISTRY.to_owned(),
            built: vec![(*platform, images::folder(Profile::Everyday)?)],
            missing: Vec::new(),
        };
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        release.write(out, progress)?;
    }
    let digests = digests(&one)?;
    same(&digests, &self::digests(&other)?)?;
    workspace::output(
        Command::new("sha256sum")
            .args(["--check", "--strict", CHECKSUMS])
            .current_dir(&one),
    )?;
    progress.note(&format!("{} files have the same digests twice", digests.len()));
    chart::check(&one, &Source::checked_out(None)?, REGISTRY, progress)?;
    images_are_readable(&one, dir)
}

/// buildah reads every image, and finds in it what the Dockerfile says.
fn images_are_readable(out: &Path, dir: &Path) -> Result<()> {
    let dockerfile = fs::read_to_string(workspace::root().join("Dockerfile"))?;
    let version = Source::checked_out(None)?.version;
    for image in released() {
        let buildah = || {
            let mut command = Command::new("buildah");
            command
                .args(["--storage-driver", "vfs", "--root"])
                .arg(dir.join("root"));
            command.arg("--runroot").arg(dir.join("run"));
            command
        };
        let archive = out.join(format!("ambit-{}-{version}.oci.tar", image.target));
        let archive = format!("oci-archive:{}", archive.display());
        let id = workspace::output(buildah().args(["pull", "--quiet", &archive]))?;
        let inspected = workspace::output(buildah().args(["inspect", "--type", "image", id.trim()]))?;
        let config = &serde_json::from_str::<Value>(&inspected)?["OCIv1"]["config"];
        let target = Target::read(&dockerfile, image.target)?;
        if config["User"] != *target.user || config["Entrypoint"] != Value::from(target.entrypoint) {
            bail!("{archive} is not what the Dockerfile says: buildah found {config}");
        }
    }
    Ok(())
}

/// The digests of all files of a folder, by name.
fn digests(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut digests = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let content = fs::read(entry.path())?;
        digests.insert(entry.file_name().to_string_lossy().into_owned(), sha256(&content));
    }
    Ok(digests)
}

/// Fails with the names of what differs.
fn same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Result<()> {
    let names = one.keys().chain(other.keys());
    let mut differ: Vec<&String> = names.filter(|name| one.get(*name) != other.get(*name)).collect();
    differ.sort();
    differ.dedup();
    if !differ.is_empty() {
        bail!("packaged twice, these files differ: {differ:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let one = of(&[("a", "1"), ("b", "2")]);
        assert!(same(&one, &one).is_ok());
        let error = same(&one, &of(&[("a", "1"), ("b", "3"), ("c", "4")])).unwrap_err();
        assert!(error.to_string().contains(r#"["b", "c"]"#), "{error}");
    }
}
