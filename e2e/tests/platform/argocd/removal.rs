//! The end: Argo CD deletes in reverse of the waves, in the foreground.

use std::time::SystemTime;

use ambit_e2e::lab::ensure_as_before;
use ambit_e2e::sample::millis;
use anyhow::anyhow;

use super::*;

/// The drain deadline that a Mesh has by default, in milliseconds.
const DRAIN: u64 = 60_000;

pub(super) fn all(story: &Story<'_>) -> Result<()> {
    step(
        "prune in reverse, in the foreground, under open connections",
        || prune(story),
    )
}

fn prune(story: &Story<'_>) -> Result<()> {
    let lab = story.lab;
    // Under Strict, the server takes only connections through the mesh.
    story.connect(clients::INSIDE)?;
    let begin = story.begin()?;
    let begun = millis(SystemTime::now());
    in_order(
        lab,
        story.argocd,
        &[
            ("waypointpolicy", "web"),
            ("mesh", "default"),
            ("deployment", "ambit-operator"),
        ],
    )?;
    println!("prune: {}", story.end(&begin)?);
    story.early_connection_lives()?;
    inside_connection_drained(story, begun)?;
    let pods = story.shop.pods()?;
    let captured: Vec<_> = pods.iter().filter(|pod| pod.captured).collect();
    ensure!(captured.is_empty(), "still captured: {captured:?}");
    nodes_are_as_before(lab)?;
    let namespace = lab.cluster.get(&["namespace", SHOP])?;
    ensure!(
        namespace["metadata"]["deletionTimestamp"].is_null(),
        "the namespace of the application goes too"
    );
    // The kinds stay, with what others have of them.
    let definitions = [
        "get",
        "customresourcedefinition",
        "meshes.ambit.dev",
        "ambientnamespaces.ambit.dev",
        "waypointpolicies.ambit.dev",
    ];
    lab.cluster.run_kubectl(&definitions).map(drop)
}

/// A connection through the mesh is open at least until the drain deadline of the Mesh. If it is cut then, its client
/// connects once more, past the mesh.
fn inside_connection_drained(story: &Story<'_>, begun: u64) -> Result<()> {
    let stats = story.shop.wait_more(clients::INSIDE, 5)?;
    let flow = stats.flows["stream"];
    ensure!(
        flow.failed <= 1 && flow.connections == 1 + flow.failed,
        "it was cut more than once: {stats:?}"
    );
    for failure in &stats.failures {
        let after = failure.seen - begun;
        println!(
            "the connection through the mesh ended {after} ms after the prune began: {}",
            failure.error
        );
        ensure!(
            after >= DRAIN,
            "the connection through the mesh was cut before the drain deadline"
        );
    }
    Ok(())
}

/// Nothing of Ambit's is left on a node.
pub(super) fn nodes_are_as_before(lab: &Lab) -> Result<()> {
    eventually("the nodes to be as they were", LIMIT, || {
        ensure_as_before(&lab.cluster)
    })
}

/// Deletes the topmost Application, and fails unless these objects go one after the other.
pub(super) fn in_order(lab: &Lab, argocd: &ArgoCd, objects: &[(&str, &str)]) -> Result<()> {
    let begin = Instant::now();
    let delete = [
        "delete",
        "applications.argoproj.io",
        PARENT,
        "--namespace",
        argocd::NAMESPACE,
    ];
    lab.cluster
        .run_kubectl(&[&delete[..], &["--wait=false"]].concat())?;
    let mut gone = 0;
    eventually("the objects to be gone, in order", 3 * LIMIT, || {
        // The last is looked at first: what goes meanwhile cannot look as if it had gone too early.
        let there = objects.iter().rev().map(|object| is_there(lab, object));
        let mut there = there.collect::<Result<Vec<_>>>()?;
        there.reverse();
        let first = there.iter().position(|there| *there).unwrap_or(there.len());
        while gone < first {
            let (kind, name) = objects[gone];
            println!(
                "{kind} {name} is gone after {:.1} s",
                begin.elapsed().as_secs_f32()
            );
            gone += 1;
        }
        if let Some(early) = there.iter().skip(first).position(|there| !*there) {
            let (early, later) = (objects[first + early], objects[first]);
            return Ok(Err(anyhow!("{early:?} went before {later:?}")));
        }
        ensure!(gone == objects.len(), "{}", argocd.describe());
        Ok(Ok(()))
    })??;
    eventually("every Application to be gone", LIMIT, || {
        let left = lab
            .cluster
            .list(&["applications.argoproj.io", "--namespace", argocd::NAMESPACE])?;
        ensure!(left.is_empty(), "{}", argocd.describe());
        Ok(())
    })?;
    println!(
        "every Application is gone after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    Ok(())
}

fn is_there(lab: &Lab, (kind, name): &(&str, &str)) -> Result<bool> {
    let namespace = if *kind == "deployment" {
        mesh::NAMESPACE
    } else {
        SHOP
    };
    let get = [
        "get",
        kind,
        name,
        "--namespace",
        namespace,
        "--ignore-not-found",
        "--output=name",
    ];
    Ok(!lab.cluster.run_kubectl(&get)?.is_empty())
}
