//! From one release to the next and back, under load.
//!
//! The charts of earlier releases are not in every clone. What is upgraded is this chart, packaged as two versions: the older one with other
//! definitions, and with the same images under another tag. So every pod of Ambit's is replaced, twice, as by a real upgrade; what only two
//! different programs could do to each other is not covered.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh::{self, Pod};
use ambit_e2e::sample::{CLIENTS, Plan, Web};
use ambit_e2e::{eventually, tools};
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{helm, own_chart, run, upgrade};

const PARTS: [&str; 4] = ["operator", "agent", "ztunnel", "waypoint"];

/// A text of the definition of Mesh, and what the older chart has in its place.
const DESCRIPTION: [&str; 2] = [
    "Mesh is the service mesh of this cluster.",
    "Mesh was the service mesh of this cluster.",
];

/// A package of the chart in `folder`.
fn package(folder: &Path, chart: &str, version: &str, tag: &str) -> Result<String> {
    let mut command = Command::new(tools::helm(&|message| println!("{message}"))?);
    command.args([
        "package",
        chart,
        "--version",
        version,
        "--app-version",
        tag,
        "--destination",
    ]);
    run(command.arg(folder))?;
    Ok(folder.join(format!("ambit-{version}.tgz")).display().to_string())
}

/// The chart as it is, and an older one.
fn packages(folder: &Path) -> Result<[String; 2]> {
    let older = folder.join("older");
    run(Command::new("cp").args(["--recursive", &own_chart()]).arg(&older))?;
    let definition = older.join("files/crds/meshes.ambit.dev.yaml");
    let text = fs::read_to_string(&definition)?;
    let [new, old] = DESCRIPTION;
    ensure!(text.contains(new), "the definition of Mesh does not say `{new}`");
    fs::write(&definition, text.replace(new, old))?;
    Ok([
        package(folder, &older.display().to_string(), "0.1.1", "previous")?,
        package(folder, &own_chart(), "0.1.2", "next")?,
    ])
}

/// Fails unless everything of Ambit's is of this release: the definitions, and every pod.
fn ensure_all_of(lab: &Lab, web: &Web, tag: &str, description: &str) -> Result<()> {
    mesh::wait_ready(&lab.cluster)?;
    eventually(&format!("every pod to be of {tag}"), LIMIT, || {
        let mut pods = lab.cluster.list(&["pods", "--namespace", mesh::NAMESPACE])?;
        pods.extend(lab.cluster.list(&[
            "pods",
            "--namespace",
            web.namespace(),
            "--selector",
            "app.kubernetes.io/name=ambit-waypoint",
        ])?);
        let old: Vec<_> = pods
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Running")
            .filter(|pod| {
                !pod["spec"]["containers"][0]["image"]
                    .as_str()
                    .is_some_and(|image| image.ends_with(tag))
            })
            .map(|pod| {
                format!(
                    "{} ({})",
                    pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
                )
            })
            .collect();
        // Old ztunnels and waypoints drain as long as their connections live, at most as long as the Mesh says.
        ensure!(old.is_empty(), "{old:?}");
        let ready = |all: Vec<Pod>| !all.is_empty() && all.iter().all(|pod| pod.ready);
        ensure!(ready(web.waypoints("waypoint")?), "the waypoint is not ready");
        Ok(())
    })?;
    let definition = lab.cluster.get(&["crd", "meshes.ambit.dev"])?.to_string();
    ensure!(
        definition.contains(description),
        "the definition of Mesh is not that of {tag}"
    );
    Ok(())
}

#[test]
fn upgrade_and_roll_back_fail_no_request() -> Result<()> {
    let lab = Lab::enter()?;
    let folder = scratch()?;
    let result = lab.with_web("upgrade", |web| move_on(&lab, web, &folder));
    let removed = fs::remove_dir_all(&folder).context("the packages");
    result
        .and(removed)
        .and(mesh::upgrade(&lab.cluster, &|message| println!("{message}")))
}

fn scratch() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("ambit-charts-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn move_on(lab: &Lab, web: &Web, folder: &Path) -> Result<()> {
    for node in lab.cluster.nodes() {
        for part in PARTS {
            let image = |tag: &str| format!("localhost/ambit/{part}:{tag}");
            for tag in ["previous", "next"] {
                node.tag_image(&image("dev"), &image(tag))?;
            }
        }
    }
    let [older, newer] = packages(folder)?;
    let [new, old] = DESCRIPTION;
    run(&mut upgrade(
        lab,
        &older,
        &["--set", "image.registry=localhost/ambit"],
    )?)?;
    let policy = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": "gets"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
            "authorization": [{"name": "gets", "action": "Allow", "methods": ["GET"]}]},
    });
    lab.cluster.apply(web.namespace(), &policy.to_string())?;
    ensure_all_of(lab, web, "previous", old)?;
    web.load_all(&Plan::get(4, "/slow?ms=5").every(20))?;
    for client in CLIENTS {
        web.wait_more(client, 100)?;
    }
    let begin = web.ensure_no_failure()?;
    let mut counted = 0;
    for step in ["upgrade", "roll-back"] {
        if step == "upgrade" {
            run(&mut upgrade(
                lab,
                &newer,
                &["--set", "image.registry=localhost/ambit"],
            )?)?;
            ensure_all_of(lab, web, "next", new)?;
        } else {
            let back = [
                "rollback",
                mesh::RELEASE,
                "--namespace",
                mesh::NAMESPACE,
                "--wait",
                "--timeout",
                "5m",
            ];
            run(&mut helm(lab, &back)?)?;
            ensure_all_of(lab, web, "previous", old)?;
        }
        let now = web.ensure_no_failure()?;
        let made: u64 = now.iter().zip(&begin).map(|(now, begin)| now.ok - begin.ok).sum();
        let again: u64 = now
            .iter()
            .zip(&begin)
            .map(|(now, begin)| now.retried - begin.retried)
            .sum();
        println!(
            "{step}: {} requests made, 0 failed; {again} in all made once more on another connection",
            made - counted
        );
        counted = made;
    }
    Ok(())
}
