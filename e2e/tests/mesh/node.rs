//! What the agent keeps in order on a node.

use std::fs;
use std::io::{Read, Write};

use ambit_e2e::cluster::Node;
use ambit_e2e::eventually;
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{IMAGE, Shop};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::enrolment::ensure_untouched;
use ambit_e2e::lab::original_cni;
use ambit_e2e::lab::{LIMIT, Lab};

/// Where the network plugins' configuration lies, as seen from the node.
const FOLDER: &str = "/etc/cni/net.d";
const FILE: &str = "10-bridge.conflist";

fn read(node: &Node) -> Result<String> {
    node.run(&["cat", &format!("{FOLDER}/{FILE}")])
}

#[test]
fn overwritten_cni_configuration_is_repaired() -> Result<()> {
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

#[test]
fn static_pod_starts_and_is_not_captured() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("static", |shop| {
        shop.enroll()?;
        let node = lab.cluster.nodes().into_iter().next().context("no node")?;
        let manifest = node.manifests().join("fixed.json");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "fixed", "namespace": shop.namespace(), "labels": {"app": "fixed"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "sample", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": ["server"]}],
            },
        });
        fs::write(&manifest, pod.to_string())?;
        let seen = look_at_static_pod(&lab, shop, &node);
        fs::remove_file(&manifest)?;
        let gone = eventually("the static pod to be gone", LIMIT, || {
            let left = Pod::list(&lab.cluster, shop.namespace(), "app=fixed")?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        });
        seen.and(gone)
    })
}

fn look_at_static_pod(lab: &Lab, shop: &Shop, node: &Node) -> Result<()> {
    let fixed = eventually("the static pod to be ready", LIMIT, || {
        let fixed = shop.pod_of("fixed")?;
        ensure!(fixed.ready && fixed.node == node.name(), "{fixed:?}");
        Ok(fixed)
    })?;
    eventually("the static pod to be counted as left out", LIMIT, || {
        let pods = &shop.ambient()?["status"]["pods"];
        ensure!(pods["excluded"] == 1 && pods["captured"] == 4, "{pods}");
        Ok(())
    })?;
    ensure!(
        !shop.pod_of("fixed")?.captured,
        "its mirror says that it is captured"
    );
    // On the node it goes by the UID that the kubelet made.
    let mirror = lab
        .cluster
        .get(&["pod", &fixed.name, "--namespace", shop.namespace()])?;
    let uid = mirror["metadata"]["annotations"]["kubernetes.io/config.hash"]
        .as_str()
        .context("its mirror does not name it")?;
    let own = Pod {
        uid: uid.to_owned(),
        ..fixed.clone()
    };
    ensure_untouched(lab, &own)?;
    // Both ways in plaintext, as the mesh is permissive.
    let to_it = format!("http://{}:8080/", fixed.ip);
    let (reached, said) = shop.run_to_end("visitor", "visitor", &["get", &to_it])?;
    ensure!(reached, "from a captured pod to the static one: {said}");
    let servers = shop.pods_of("server")?;
    let server = servers.first().context("no server")?;
    let mut stream = own.dial(&lab.cluster, (server.ip, 8080).into())?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "from the static pod to a captured one: {answer}"
    );
    Ok(())
}
