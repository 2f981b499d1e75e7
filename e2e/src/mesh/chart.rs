//! The chart, apart from its usual installation.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{NAMESPACE, RELEASE};
use crate::{shell, tools};

/// A chart, a folder or a package, as manifests for `kubectl apply --server-side`: with the namespace, and without
/// hooks, which only Helm runs. `values` are as in `image.tag=1.2.3`.
///
/// # Errors
/// When Helm refuses the values; the error quotes it.
pub fn manifests(chart: &Path, values: &[impl AsRef<str>], progress: &dyn Fn(&str)) -> Result<String> {
    let mut render = Command::new(tools::helm(progress)?);
    render.args(["template", RELEASE]).arg(chart);
    render.args([
        "--namespace",
        NAMESPACE,
        "--no-hooks",
        "--kube-version",
        tools::KUBERNETES_VERSION,
    ]);
    render.args(["--set", "namespace.create=true,uninstall.deleteMesh=false"]);
    for value in values {
        render.args(["--set", value.as_ref()]);
    }
    let manifests = shell::run(render.env_remove("KUBECONFIG")).context("the chart cannot be rendered")?;
    Ok(format!(
        "# Ambit: kubectl apply --server-side --filename install.yaml\n\
         # To remove it: kubectl delete mesh default, wait until that is gone, then kubectl delete --filename install.yaml.\n{manifests}"
    ))
}
