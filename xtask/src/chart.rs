//! `cargo xtask chart`: what is generated from the chart, and what is checked about it.

mod conform;
mod readme;
mod schema;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::{mesh, tools};
use anyhow::{Context, Result, bail, ensure};

use crate::progress::Progress;
use crate::workspace;
use values::Values;

/// What to make of the chart. Without flags: its schema and its README.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail where the generated files differ from values.yaml, or where Helm or kubeconform refuse the
    /// chart.
    #[arg(long)]
    check: bool,
    /// Write the chart as manifests for `kubectl apply --server-side` to this file instead.
    #[arg(long, value_name = "FILE")]
    install_yaml: Option<PathBuf>,
    /// Values of these manifests, as in `image.tag=1.2.3`.
    #[arg(long, value_name = "KEY=VALUE", requires = "install_yaml")]
    set: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if let Some(file) = &arguments.install_yaml {
        let text = mesh::manifests(&dir(), &arguments.set, &|message| progress.note(message))?;
        return fs::write(file, text).with_context(|| format!("cannot write {}", file.display()));
    }
    if arguments.check {
        check(progress)?;
        return lint(progress);
    }
    for (path, text) in generated()? {
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        progress.note(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Fails where schema and README are not what values.yaml says.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    for (path, text) in generated()? {
        ensure!(
            fs::read_to_string(&path).is_ok_and(|found| found == text),
            "{} is not what values.yaml says: run `cargo xtask chart` and commit the result",
            path.display()
        );
    }
    progress.note("values.schema.json and README.md of the chart agree with its values.yaml");
    Ok(())
}

/// The chart of the work tree as [`lint_of`] looks at it.
pub(crate) fn lint(progress: &Progress) -> Result<()> {
    lint_of(&dir(), progress)
}

/// A chart, a folder or a package, with its own values and with each of `ci/*-values.yaml`: what Helm thinks of it, and
/// whether Kubernetes has such objects.
pub(crate) fn lint_of(chart: &Path, progress: &Progress) -> Result<()> {
    let schemas = conform::schemas(progress)?;
    for file in value_sets()? {
        let values = |command: &mut Command| {
            if let Some(file) = &file {
                command.arg("--values").arg(file);
            }
        };
        let name = file
            .as_deref()
            .map_or("values.yaml".into(), Path::to_string_lossy);
        let mut lint = helm("lint", progress)?;
        lint.args(["--strict", "--quiet"]).arg(chart);
        values(&mut lint);
        workspace::output(&mut lint)?;
        let mut render = helm("template", progress)?;
        render.arg(mesh::RELEASE).arg(chart);
        render.args(["--namespace", mesh::NAMESPACE]);
        values(&mut render);
        let manifests = workspace::output(&mut render)?;
        let summary = schemas
            .check(&manifests)
            .with_context(|| format!("the chart with {name}"))?;
        progress.note(&format!("{name}: {summary}"));
    }
    Ok(())
}

/// Fails where Kubernetes has no such objects as these manifests; what kubeconform says of them.
pub(crate) fn conforms(manifests: &str, progress: &Progress) -> Result<String> {
    conform::schemas(progress)?.check(manifests)
}

/// The chart's own values, and those of its folder `ci`.
fn value_sets() -> Result<Vec<Option<PathBuf>>> {
    let folder = dir().join("ci");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    if files.is_empty() {
        bail!("{} has no values", folder.display());
    }
    Ok(std::iter::once(None).chain(files.into_iter().map(Some)).collect())
}

/// The README of a chart with this Chart.yaml and values.yaml.
pub(crate) fn readme(chart: &str, values: &str) -> Result<String> {
    readme::readme(chart, &Values::read(values)?)
}

fn generated() -> Result<[(PathBuf, String); 2]> {
    let dir = dir();
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let values = Values::read(&read("values.yaml")?)?;
    let schema = schema::schema(&values)?;
    let readme = readme::readme(&read("Chart.yaml")?, &values)?;
    Ok([
        (
            dir.join("values.schema.json"),
            serde_json::to_string_pretty(&schema)? + "\n",
        ),
        (dir.join("README.md"), readme),
    ])
}

fn dir() -> PathBuf {
    workspace::root().join("charts/ambit")
}

/// A command of Helm that needs no cluster, for the version of Kubernetes that the tests run.
fn helm(name: &str, progress: &Progress) -> Result<Command> {
    let mut command = Command::new(tools::helm(&|message| progress.note(message))?);
    // A Helm that is built from its module takes an old Kubernetes for granted.
    command.args([name, "--kube-version", tools::KUBERNETES_VERSION]);
    command.env_remove("KUBECONFIG");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_and_readme_are_up_to_date() {
        check(&Progress::new()).unwrap();
    }
}
