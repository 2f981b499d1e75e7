//! What the agent keeps in order on a node.

use ambit_e2e::cluster::Node;
use ambit_e2e::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{LIMIT, Lab};
use crate::uninstall::original_cni;

/// Where the network plugins' configuration lies, as seen from the node.
const FOLDER: &str = "/etc/cni/net.d";
const FILE: &str = "10-bridge.conflist";

fn read(node: &Node) -> Result<String> {
    node.run(&["cat", &format!("{FOLDER}/{FILE}")])
}

#[test]
fn a_cni_configuration_that_something_else_overwrites_is_repaired() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("repair", |shop| {
        shop.enroll()?;
        for node in lab.cluster.nodes() {
            let ours = read(&node)?;
            ensure!(ours.contains("ambit-cni"), "the plugin is not in it: {ours}");
            // As the network plugin's own installer would.
            let theirs = original_cni(&lab.cluster, &node, FILE)?;
            let path = format!("{FOLDER}/{FILE}");
            let overwrite = format!("printf %s '{theirs}' > {path}.new && mv {path}.new {path}");
            node.run(&["sh", "-c", &overwrite])?;
            eventually(
                &format!("the plugin to be back on {}", node.name()),
                LIMIT,
                || {
                    let now: Value = serde_json::from_str(&read(&node)?)?;
                    let plugins = now["plugins"].as_array().context("it is no list of plugins")?;
                    let last = plugins.last().context("it is empty")?;
                    ensure!(last["type"] == "ambit-cni", "the last plugin is {last}");
                    ensure!(
                        now == serde_json::from_str::<Value>(&ours)?,
                        "it was {ours} and is {now}"
                    );
                    Ok(())
                },
            )?;
        }
        let (succeeded, said) = shop.run_to_end("after", "after", &["get", "http://server:8080/"])?;
        ensure!(succeeded, "a pod after the repair: {said}");
        Ok(())
    })
}
