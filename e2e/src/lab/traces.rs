//! What nodes were like before Ambit was installed for the first time.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Node};

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
pub(super) fn remember_nodes(cluster: &Cluster) -> Result<()> {
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
///
/// # Errors
/// When there was none.
pub fn original_cni(cluster: &Cluster, node: &Node, file: &str) -> Result<String> {
    let all = remembered(cluster, node)?[CNI].clone();
    let (_, rest) = all
        .split_once(&format!("== {file}\n"))
        .with_context(|| format!("no {file} in {all}"))?;
    Ok(rest.split("\n== ").next().unwrap_or(rest).to_owned())
}

/// Every node is as it was before Ambit was installed for the first time.
///
/// # Errors
/// When one is not: what changed.
pub fn ensure_as_before(cluster: &Cluster) -> Result<()> {
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
