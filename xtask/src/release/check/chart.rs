//! The chart of a release is whole: every file of the chart is in the package, and every image that the chart and
//! `install.yaml` name is in the release.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_yaml::Value;

use super::super::archive::Files;
use super::super::chart::{CHART, REGISTRY};
use super::super::source::git;
use super::super::{Source, released};
use crate::progress::Progress;
use crate::workspace;

/// What the chart's folder has for development alone.
const DEVELOPMENT: &[&str] = &["ci/", "alerts_test.yaml"];

/// Files that a release changes.
const CHANGED: &[&str] = &["Chart.yaml", "README.md", "values.yaml"];

/// The images that the chart runs.
const RUN: &[&str] = &["agent", "operator", "waypoint", "ztunnel"];

/// Checks the chart and the manifests of the release in `out`, whose images come from `registry`.
pub(super) fn check(out: &Path, source: &Source, registry: &str, progress: &Progress) -> Result<()> {
    let path = out.join(format!("ambit-{}.tgz", source.version));
    let package = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let package = Files::from_tar_gz(&package)?;
    let count = has_the_files(&package)?;
    has_the_version(&package, &source.version.to_string())?;
    let install = fs::read_to_string(out.join("install.yaml")).context("cannot read install.yaml")?;
    let mut texts = vec![("install.yaml", install.as_str())];
    for (name, content) in package.iter() {
        texts.push((
            name,
            std::str::from_utf8(content).with_context(|| name.to_owned())?,
        ));
    }
    for (name, text) in texts {
        ensure!(!text.contains(REGISTRY), "{name} names the registry {REGISTRY}");
    }
    names_images_of_the_release(&install, registry, &source.version.to_string())?;
    let definitions = install.matches("\nkind: CustomResourceDefinition\n").count();
    ensure!(
        definitions == ambit_crds::generate()?.len(),
        "install.yaml has {definitions} CustomResourceDefinitions"
    );
    let summary = crate::chart::conforms(&install, progress).context("install.yaml")?;
    progress.note(&format!("the chart has {count} files; install.yaml: {summary}"));
    crate::chart::lint_of(&path, progress)
}

/// The package has the files of the work tree, and no others; returns their number.
fn has_the_files(package: &Files) -> Result<usize> {
    let dir = workspace::root().join(CHART);
    let listed = git(&[
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--full-name",
        CHART,
    ])?;
    let mut expected = BTreeSet::new();
    for name in listed
        .lines()
        .filter_map(|line| line.strip_prefix(CHART)?.strip_prefix('/'))
    {
        if !DEVELOPMENT.iter().any(|part| name.starts_with(part)) && dir.join(name).exists() {
            expected.insert(name);
        }
    }
    let found: BTreeSet<&str> = package
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("ambit/"))
        .collect();
    let differ: Vec<_> = expected.symmetric_difference(&found).collect();
    ensure!(
        differ.is_empty(),
        "{CHART} and its package do not have the same files: {differ:?}"
    );
    for (name, content) in package.iter() {
        let name = name.trim_start_matches("ambit/");
        ensure!(
            CHANGED.contains(&name) || fs::read(dir.join(name))? == content,
            "{name} of the package is not that of {CHART}"
        );
    }
    Ok(found.len())
}

fn has_the_version(package: &Files, version: &str) -> Result<()> {
    let chart = package.iter().find(|(name, _)| *name == "ambit/Chart.yaml");
    let chart: Value = serde_yaml::from_slice(chart.context("the package has no Chart.yaml")?.1)?;
    for field in ["version", "appVersion"] {
        ensure!(
            chart[field] == version,
            "Chart.yaml has {field} {:?}, and the release is {version}",
            chart[field]
        );
    }
    Ok(())
}

/// Each image is one of the release, and none of those that the chart runs is missing.
fn names_images_of_the_release(install: &str, registry: &str, version: &str) -> Result<()> {
    let reference = |name: &&str| format!("{registry}/{name}:{version}");
    let expected: BTreeSet<String> = RUN.iter().map(reference).collect();
    let found: BTreeSet<String> = install
        .split([' ', '"', '\n'])
        .filter(|word| word.starts_with(registry))
        .map(str::to_owned)
        .collect();
    ensure!(
        found == expected,
        "install.yaml names the images {found:?}, and should name {expected:?}"
    );
    let released: BTreeSet<&str> = released().map(|image| image.target).collect();
    let missing: Vec<_> = RUN.iter().filter(|name| !released.contains(*name)).collect();
    ensure!(missing.is_empty(), "these images are not released: {missing:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_missing_or_unknown_is_named() {
        let check = |names: &[&str]| {
            let lines: Vec<String> = names
                .iter()
                .map(|name| format!("  image: \"r.example/{name}\"\n"))
                .collect();
            names_images_of_the_release(&lines.concat(), "r.example", "1.2.3")
        };
        let all = ["agent:1.2.3", "operator:1.2.3", "waypoint:1.2.3", "ztunnel:1.2.3"];
        check(&all).unwrap();
        let error = check(&all[1..]).unwrap_err().to_string();
        assert!(error.contains("r.example/agent:1.2.3"), "{error}");
        let other = [&all[..], &["agent:dev"]].concat();
        assert!(check(&other).unwrap_err().to_string().contains("agent:dev"));
    }

    #[test]
    fn a_package_with_another_file_or_without_one_is_refused() {
        let mut package = Files::default();
        package.add("ambit/no-such-file.yaml", "a: b\n");
        let error = has_the_files(&package).unwrap_err().to_string();
        assert!(error.contains("no-such-file.yaml"), "{error}");
        assert!(error.contains("templates/deployment.yaml"), "{error}");
        assert!(!error.contains("alerts_test.yaml"), "{error}");
    }

    #[test]
    fn the_chart_has_the_version_of_the_release() {
        let mut package = Files::default();
        package.add("ambit/Chart.yaml", "version: 1.2.3\nappVersion: 1.2.2\n");
        let error = has_the_version(&package, "1.2.3").unwrap_err().to_string();
        assert!(error.contains("appVersion"), "{error}");
    }
}
