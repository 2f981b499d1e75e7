//! The end: Argo CD deletes in reverse of the waves, in the foreground.

use anyhow::anyhow;

use super::*;

pub(super) fn all(story: &Story<'_>) -> Result<()> {
    step(
        "prune in reverse, in the foreground, under open connections",
        || prune(story),
    )
}

fn prune(story: &Story<'_>) -> Result<()> {
    let lab = story.lab;
    story.web.load_all(&load())?;
    for client in CLIENTS {
        story.web.wait_more(client, 50)?;
    }
    for client in ["client-a", "client-b"] {
        // Its connections are open.
        story.shop.wait_more(client, 5)?;
    }
    let before = ["client-a", "client-b"].map(|client| story.shop.stats(client));
    in_order(
        lab,
        story.argocd,
        &[
            ("waypointpolicy", "web"),
            ("mesh", "default"),
            ("deployment", "ambit-operator"),
        ],
    )?;
    story.shop.wait_released()?;
    for client in CLIENTS {
        story.web.wait_more(client, 50)?;
    }
    let web = story.web.ensure_no_failure()?;
    let mut cut = Vec::new();
    for (client, before) in ["client-a", "client-b"].into_iter().zip(before) {
        let (before, after) = (before?, story.shop.wait_more(client, 5)?);
        let failed = after.total_failed() - before.total_failed();
        ensure!(failed == 0, "{client}: {failed} failed: {:?}", after.failures);
        for (flow, now) in &after.flows {
            cut.push((client, flow.clone(), now.connections));
        }
    }
    println!(
        "prune: {} requests through the waypoint and past it, 0 failed; connections made by the other clients: {cut:?}",
        web.iter().map(|stats| stats.ok).sum::<u64>()
    );
    eventually("the nodes to be as they were", LIMIT, || {
        ensure_as_before(&lab.cluster)
    })?;
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
        "waypointpolicies.ambit.dev",
    ];
    lab.cluster.run_kubectl(&definitions).map(drop)
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
