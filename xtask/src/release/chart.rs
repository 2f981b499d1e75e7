//! The chart's package and `install.yaml`.

use std::fs;
use std::path::Path;
use std::process::Command;

use ambit_e2e::{mesh, tools};
use anyhow::{Context, Result, bail};

use super::Source;
use super::archive::{Files, gzip};
use crate::progress::Progress;
use crate::workspace;

/// The chart in the work tree.
pub(super) const CHART: &str = "charts/ambit";

/// Where the chart in the work tree takes images from.
pub(super) const REGISTRY: &str = "localhost/ambit";

/// Packages the chart with Helm and returns its bytes; its images come from `registry`. Helm writes the time of
/// packaging and files in the order of the folder, so the package is written anew.
pub(super) fn package(
    source: &Source,
    registry: &str,
    scratch: &Path,
    progress: &Progress,
) -> Result<Vec<u8>> {
    let chart = scratch.join("ambit");
    copy(&workspace::root().join(CHART), &chart)?;
    let values = chart.join("values.yaml");
    let text = fs::read_to_string(&values).with_context(|| format!("cannot read {}", values.display()))?;
    let text = with_registry(&text, registry)?;
    fs::write(&values, &text).with_context(|| format!("cannot write {}", values.display()))?;
    // Its table has the defaults of the values.
    let readme = crate::chart::readme(&fs::read_to_string(chart.join("Chart.yaml"))?, &text)?;
    fs::write(chart.join("README.md"), readme).context("cannot write the chart's README.md")?;
    let version = source.version.to_string();
    let mut helm = Command::new(tools::helm(&|message| progress.note(message))?);
    helm.arg("package").arg(&chart);
    helm.args(["--version", &version, "--app-version", &version]);
    workspace::output(helm.arg("--destination").arg(scratch))?;
    let package = scratch.join(format!("ambit-{version}.tgz"));
    let package = fs::read(&package).with_context(|| format!("cannot read {}", package.display()))?;
    gzip(&Files::from_tar_gz(&package)?.tar(source.time)?)
}

/// The manifests for `kubectl apply`, from the chart's package in `archive`.
pub(super) fn install_yaml(archive: &Path, progress: &Progress) -> Result<String> {
    mesh::manifests(archive, &[] as &[&str], &|message| progress.note(message))
}

/// The chart's values with another registry.
fn with_registry(values: &str, registry: &str) -> Result<String> {
    let line = format!("\n  registry: {REGISTRY}\n");
    if values.matches(&line).count() != 1 {
        bail!("{CHART}/values.yaml does not have the line `registry: {REGISTRY}` once");
    }
    Ok(values.replace(&line, &format!("\n  registry: {registry}\n")))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_takes_another_registry() {
        let values = fs::read_to_string(workspace::root().join(CHART).join("values.yaml")).unwrap();
        let changed = with_registry(&values, "registry.example/mesh").unwrap();
        assert!(changed.contains("\n  registry: registry.example/mesh\n"));
        assert!(!changed.contains(&format!("registry: {REGISTRY}")));
        assert!(with_registry("image: {}\n", "registry.example").is_err());
    }
}
