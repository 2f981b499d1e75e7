//! The chart as people install, upgrade and remove it: with Helm, or as manifests.

mod created;
mod install;
mod upgrade;
mod values;

use std::process::{Command, Output, Stdio};

use ambit_e2e::lab::Lab;
use ambit_e2e::mesh;
use anyhow::{Context, Result, bail, ensure};

/// The images that the tests load.
const OWN_IMAGES: &str = "image.registry=localhost/ambit,image.tag=dev";

/// A command of Helm on the cluster of the tests.
fn helm(lab: &Lab, arguments: &[&str]) -> Result<Command> {
    let mut command = lab.cluster.helm(&|message| println!("{message}"))?;
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// `helm upgrade --install` of a chart, with more arguments.
fn upgrade(lab: &Lab, chart: &str, more: &[&str]) -> Result<Command> {
    let mut command = helm(lab, &["upgrade", "--install", mesh::RELEASE, chart])?;
    command.args(["--namespace", mesh::NAMESPACE, "--create-namespace"]);
    command.args(["--wait", "--timeout", "5m"]).args(more);
    Ok(command)
}

/// The chart of this repository.
fn own_chart() -> String {
    ambit_e2e::workspace().join("charts/ambit").display().to_string()
}

/// Runs `test` without Ambit on the cluster; it is there again afterwards, as the lab installs it.
fn without_ambit(lab: &Lab, test: impl FnOnce() -> Result<()>) -> Result<()> {
    mesh::uninstall(&lab.cluster, &|message| println!("{message}"))?;
    test().and(lab.install())
}

/// What a command printed, which succeeds.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot start")?;
    ensure!(output.status.success(), "{command:?}: {}", said(&output));
    Ok(said(&output))
}

/// What a command printed, which does not succeed.
fn refused(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot start")?;
    if output.status.success() {
        bail!("{command:?} is not refused: {}", said(&output));
    }
    Ok(said(&output))
}

fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    text.concat()
}

/// Fails where one of the words is missing.
fn ensure_says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "there is no `{word}` in: {text}");
    }
    Ok(())
}
