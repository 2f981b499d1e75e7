//! The demo under test: on a new cluster, and once more through the context of a kubeconfig, as on a cluster of
//! somebody else.

use std::env;
use std::process::{Command, Stdio};

use ambit_e2e::cluster::Cluster;
use ambit_e2e::mesh;
use anyhow::{Context, Result, ensure};

use super::play;
use crate::progress::Progress;

/// The cluster of this check.
pub(crate) const CLUSTER: &str = "ambit-demo-test";

/// Runs both. The cluster is left to the caller.
pub(crate) fn run(progress: &Progress) -> Result<()> {
    Cluster::down(CLUSTER)?;
    play(CLUSTER, progress)?;
    let cluster = Cluster::attach(CLUSTER)?;
    cluster.run_kubectl(&["delete", "namespace", "shop", "--timeout=3m"])?;
    progress.step("the demo refuses a cluster where Ambit is installed", || {
        let output = by_context(&cluster)?.stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains("Ambit is installed in this cluster already"),
            "{}: {said}",
            output.status
        );
        mesh::wait_ready(&cluster)
    })?;
    mesh::uninstall(&cluster, &|message| progress.note(message))?;
    let kinds = cluster.run_kubectl(&["get", "customresourcedefinitions", "--output=name"])?;
    let ours = kinds.lines().filter(|kind| kind.ends_with(".ambit.dev"));
    let ours: Vec<&str> = ours.chain(["namespace/ambit-system"]).collect();
    cluster.run_kubectl(&[&["delete", "--timeout=3m"], &ours[..]].concat())?;
    progress.step("the demo through a context", || {
        let status = by_context(&cluster)?.status().context("cannot start the demo")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    })
}

/// This program, as a user has it who knows of the cluster by a kubeconfig alone.
fn by_context(cluster: &Cluster) -> Result<Command> {
    let context = cluster.run_kubectl(&["config", "current-context"])?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [cluster.programs().to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    let mut command = Command::new(env::current_exe().context("this program has no path")?);
    command
        .args(["demo", "--context", context.trim()])
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("PATH", env::join_paths(path)?)
        .stdin(Stdio::null());
    Ok(command)
}
