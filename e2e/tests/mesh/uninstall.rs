//! `helm uninstall` and what it leaves: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ambit_e2e::cluster::{Cluster, Node};
use ambit_e2e::mesh;
use ambit_e2e::{eventually, sample::Shop};
use anyhow::{Context, Result, ensure};

use crate::enrolment::ensure_untouched;
use crate::lab::{LIMIT, Lab};

/// What Ambit could have changed of a node, by what it is.
type Traces = BTreeMap<String, String>;

const CNI: &str = "CNI configuration";

/// Pods come and go, so the rules of kube-proxy and of the network plugin do too: of tables, the names count.
fn traces(node: &Node) -> Result<Traces> {
    let looks: [(&str, &[&str]); 6] = [
        (
            CNI,
            &[
                "sh",
                "-c",
                "cd /etc/cni/net.d && for f in *; do echo \"== $f\"; cat \"$f\"; done",
            ],
        ),
        ("CNI plugins", &["ls", "/opt/cni/bin"]),
        // Listed in the order they were made in, which a restart of the node changes.
        ("nftables", &["sh", "-c", "nft list tables | sort"]),
        ("routing rules", &["ip", "rule", "list"]),
        (
            "routing tables",
            &["sh", "-c", "ip route show table 100 2>/dev/null; true"],
        ),
        (
            "folders",
            &[
                "sh",
                "-c",
                "ls -d /run/ambit /var/lib/ambit 2>/dev/null; find /var/lib/ambit -type f 2>/dev/null; true",
            ],
        ),
    ];
    looks
        .iter()
        .map(|(what, words)| Ok(((*what).to_owned(), node.run(words)?)))
        .collect()
}

fn memory(cluster: &Cluster, node: &Node) -> PathBuf {
    cluster
        .dir()
        .join("tests")
        .join(format!("{}-before.json", node.name()))
}

/// Keeps how the nodes are before Ambit is installed for the first time.
pub(crate) fn remember_nodes(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let file = memory(cluster, &node);
        if !file.exists() {
            fs::create_dir_all(file.parent().context("a file has a folder")?)?;
            fs::write(&file, serde_json::to_string_pretty(&traces(&node)?)?)?;
        }
    }
    Ok(())
}

fn remembered(cluster: &Cluster, node: &Node) -> Result<Traces> {
    let file = memory(cluster, node);
    let text = fs::read_to_string(&file).with_context(|| {
        format!(
            "{} is missing: Ambit was installed on this cluster by other means than these tests",
            file.display()
        )
    })?;
    Ok(serde_json::from_str(&text)?)
}

/// The text of a file of the node's CNI configuration, from before Ambit.
pub(crate) fn original_cni(cluster: &Cluster, node: &Node, file: &str) -> Result<String> {
    let all = remembered(cluster, node)?[CNI].clone();
    let (_, rest) = all
        .split_once(&format!("== {file}\n"))
        .with_context(|| format!("no {file} in {all}"))?;
    Ok(rest.split("\n== ").next().unwrap_or(rest).to_owned())
}

fn ensure_as_before(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let before = remembered(cluster, &node)?;
        let now = traces(&node)?;
        for (what, was) in &before {
            ensure!(
                now[what] == *was,
                "{what} of {} changed from\n{was}\nto\n{}",
                node.name(),
                now[what]
            );
        }
    }
    Ok(())
}

#[test]
fn uninstalling_leaves_nodes_and_pods_as_they_were() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_shop("uninstall", |shop: &Shop| {
        shop.enroll()?;
        lab.record(shop, 10)?;
        mesh::uninstall(&lab.cluster, &|message| println!("{message}"))?;
        for pod in shop.pods()? {
            ensure_untouched(&lab, &pod)?;
        }
        eventually("the nodes to be as they were", LIMIT, || {
            ensure_as_before(&lab.cluster)
        })?;
        for kind in ["daemonsets", "deployments", "pods"] {
            eventually(&format!("no {kind} to be left"), LIMIT, || {
                let left = lab.cluster.list(&[kind, "--namespace", mesh::NAMESPACE])?;
                let names: Vec<_> = left.iter().map(|object| &object["metadata"]["name"]).collect();
                ensure!(names.is_empty(), "{names:?}");
                Ok(())
            })?;
        }
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, 5)?;
            let stats = shop.stats(client)?;
            ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
        }
        Ok(())
    });
    // For whichever test comes next, and as the proof that it can be installed again.
    result.and(lab.install())
}

/// As Argo CD deletes: the garbage collector then deletes at once all that the Mesh owns.
#[test]
fn foreground_deletion_cuts_no_pod_off() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_shop("foreground", |shop: &Shop| {
        shop.enroll()?;
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, 5)?;
        }
        // Its connections are open.
        let refused = lab
            .cluster
            .run_kubectl(&["delete", "namespace", mesh::NAMESPACE, "--wait=false"]);
        ensure!(
            refused
                .as_ref()
                .is_err_and(|error| format!("{error:#}").contains("delete the Mesh first")),
            "{refused:?}"
        );
        lab.cluster.run_kubectl(&[
            "delete",
            "mesh",
            "default",
            "--cascade=foreground",
            "--timeout=5m",
        ])?;
        for pod in shop.pods()? {
            ensure_untouched(&lab, &pod)?;
        }
        for kind in ["daemonsets", "configmaps"] {
            let left = lab.cluster.list(&[
                kind,
                "--namespace",
                mesh::NAMESPACE,
                "--selector",
                "app.kubernetes.io/managed-by=ambit-operator",
            ])?;
            ensure!(left.is_empty(), "{kind} are left: {left:?}");
        }
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, 5)?;
            let stats = shop.stats(client)?;
            ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
        }
        Ok(())
    });
    result.and(mesh::apply(&lab.cluster, mesh::MESH))
}
