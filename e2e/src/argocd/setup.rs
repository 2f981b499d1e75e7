//! What Argo CD has on a cluster: its kinds, its configuration, its Applications.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{CONTROLLER, KINDS, LIMIT, NAMESPACE, REDIS, REPO_SERVER};
use crate::cluster::Cluster;
use crate::tools::ArgoCdPrograms;
use crate::{eventually, shell};

/// Installs Argo CD's kinds and configuration, and the health of our kinds as `docs/gitops.md` says.
pub(super) fn configure(cluster: &Cluster, programs: &ArgoCdPrograms) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.apply("default", &namespace.to_string())?;
    for manifest in programs.manifests() {
        apply_server_side(cluster, &manifest)?;
    }
    configure_health(cluster)?;
    let labels = json!({"app.kubernetes.io/part-of": "argocd"});
    for name in [
        "argocd-cmd-params-cm",
        "argocd-gpg-keys-cm",
        "argocd-rbac-cm",
        "argocd-ssh-known-hosts-cm",
        "argocd-tls-certs-cm",
    ] {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
        cluster.apply(NAMESPACE, &map.to_string())?;
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "argocd-secret", "labels": labels},
        "stringData": {"server.secretkey": "of a test cluster"},
    });
    cluster.apply(NAMESPACE, &secret.to_string())
}

/// As `docs/gitops.md` says. No key that Argo CD comes with may go.
fn configure_health(cluster: &Cluster) -> Result<()> {
    let map = ["configmap", "argocd-cm", "--namespace", NAMESPACE];
    let keys = || -> Result<BTreeSet<String>> {
        let map = cluster.get(&map)?;
        let data = map["data"].as_object().context("argocd-cm has no data")?;
        Ok(data.keys().cloned().collect())
    };
    let before = keys()?;
    let file = crate::workspace().join("examples/argocd/argocd-cm.yaml");
    let mut patch = cluster.kubectl();
    patch
        .arg("patch")
        .args(map)
        .args(["--type=merge", "--patch-file"]);
    shell::run(patch.arg(file))?;
    let after = keys()?;
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "argocd-cm has lost {lost:?}");
    ensure!(after.len() > before.len(), "argocd-cm has no key more");
    Ok(())
}

fn apply_server_side(cluster: &Cluster, file: &Path) -> Result<()> {
    let mut apply = cluster.kubectl();
    apply.args(["apply", "--server-side", "--namespace", NAMESPACE, "--filename"]);
    shell::run(apply.arg(file)).map(drop)
}

/// Ends Argo CD's programs, and removes its objects from the cluster. What its Applications have applied stays.
pub(super) fn remove(cluster: &Cluster) -> Result<()> {
    cluster.end_beside(&[CONTROLLER, REPO_SERVER, REDIS])?;
    for kind in KINDS {
        let definition = [
            "get",
            "customresourcedefinition",
            kind,
            "--ignore-not-found",
            "--output=name",
        ];
        if cluster.run_kubectl(&definition)?.is_empty() {
            continue;
        }
        for object in cluster.list(&[kind, "--namespace", NAMESPACE])? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            // Without a controller, nothing else removes them.
            let patch = ["patch", kind, name, "--type=merge", "--namespace", NAMESPACE];
            let none = ["--patch", r#"{"metadata":{"finalizers":null}}"#];
            cluster.run_kubectl(&[&patch[..], &none].concat())?;
        }
        cluster.run_kubectl(&["delete", "customresourcedefinition", kind, "--timeout=2m"])?;
    }
    let delete = [
        "delete",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--timeout=2m",
    ];
    cluster.run_kubectl(&delete)?;
    eventually("the namespace of Argo CD to be gone", LIMIT, || {
        let left = cluster.run_kubectl(&["get", "namespace", NAMESPACE, "--ignore-not-found"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
