//! Ambit on a cluster: installed with Helm as a user would, and looked at from outside.

mod chart;
mod proxy;
mod restart;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::{eventually, kube, shell};

pub use chart::manifests;
pub use proxy::{LogLine, Pod, config_dump, control_planes, operators, ztunnels};
pub use restart::restart;

/// Where Ambit's own pods run.
pub const NAMESPACE: &str = "ambit-system";

/// Where mutual TLS between pods goes to.
pub const PORT_HBONE: u16 = 15008;

/// Name of the Helm release.
pub const RELEASE: &str = "ambit";

/// The least of a Mesh: every default.
pub const MESH: &str = "apiVersion: ambit.dev/v1alpha1\nkind: Mesh\nmetadata:\n  name: default\nspec: {}\n";

/// The label that enrolls a namespace.
pub const ENROLL: &str = "istio.io/dataplane-mode=ambient";

const READY_LIMIT: Duration = Duration::from_secs(240);

/// Installs the chart, or brings it up to date, with the images that `cargo xtask images` made; waits for the operator
/// and the control plane.
///
/// # Errors
/// When Helm fails; the error quotes it.
pub fn install(cluster: &Cluster, progress: &dyn Fn(&str)) -> Result<()> {
    let chart = crate::workspace().join("charts/ambit");
    let mut helm = cluster.helm(progress)?;
    helm.args(["upgrade", "--install", RELEASE]).arg(chart);
    helm.args([
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "5m",
    ]);
    for value in cluster.image_values() {
        helm.args(["--set", &value]);
    }
    shell::run(&mut helm)
        .with_context(|| format!("the chart was not installed; its pods: {}", pods_summary(cluster)))?;
    Ok(())
}

/// Brings an Ambit that is installed up to this chart; waits until the Mesh is Ready.
///
/// # Errors
/// When that fails; the error quotes why.
pub fn upgrade(cluster: &Cluster, progress: &dyn Fn(&str)) -> Result<()> {
    install(cluster, progress)?;
    wait_ready(cluster)
}

/// `helm uninstall`, as a user would: its hook deletes the Mesh first.
///
/// # Errors
/// When Helm fails; the error quotes it.
pub fn uninstall(cluster: &Cluster, progress: &dyn Fn(&str)) -> Result<()> {
    let mut helm = cluster.helm(progress)?;
    helm.args([
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout",
        "5m",
    ]);
    shell::run(&mut helm)
        .with_context(|| format!("the chart was not removed; its pods: {}", pods_summary(cluster)))?;
    Ok(())
}

/// Applies a Mesh and waits until it is Ready for that generation.
///
/// # Errors
/// When it is refused, or not Ready in four minutes; the error tells its conditions.
pub fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    cluster.apply(NAMESPACE, manifest)?;
    wait_ready(cluster)
}

/// Waits until the Mesh is Ready, for its present generation.
///
/// # Errors
/// When it is not in four minutes; the error tells its conditions and the pods.
pub fn wait_ready(cluster: &Cluster) -> Result<()> {
    let ready = eventually("the Mesh to be Ready", READY_LIMIT, || {
        let mesh = cluster.get(&["mesh", "default"])?;
        is_ready(&mesh)
    });
    ready.with_context(|| format!("its pods: {}", pods_summary(cluster)))
}

/// Whether the Ready condition of a Mesh or an AmbientNamespace is true, and of its present generation.
///
/// # Errors
/// When it is not: why.
pub fn is_ready(object: &Value) -> Result<()> {
    let generation = &object["metadata"]["generation"];
    if object["status"]["observedGeneration"] != *generation {
        bail!(
            "its status is of generation {}, not {generation}",
            object["status"]["observedGeneration"]
        );
    }
    match kube::condition(object, "Ready") {
        Some(("True", ..)) => Ok(()),
        Some((status, reason, message)) => bail!("Ready is {status}, {reason}: {message}"),
        None => bail!("it has no condition Ready"),
    }
}

/// The pods of Ambit's namespace, for errors.
fn pods_summary(cluster: &Cluster) -> String {
    let pods = cluster.run_kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output=wide"]);
    pods.unwrap_or_else(|error| format!("{error:#}"))
}
