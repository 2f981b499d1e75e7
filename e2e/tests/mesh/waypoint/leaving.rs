//! The namespace leaves the mesh, or the mesh leaves the cluster: waypoints leave too, and traffic goes on.

use ambit_e2e::eventually;
use ambit_e2e::mesh;
use ambit_e2e::sample::{CLIENTS, Plan, Web};
use anyhow::{Result, ensure};
use serde_json::json;

use super::lifecycle::made;
use super::{WAYPOINT, condition, enforce, get_policy, wait_way};
use ambit_e2e::lab::{LIMIT, Lab};

/// A load through a waypoint that authorizes.
fn begin(lab: &Lab, web: &Web) -> Result<()> {
    let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
    enforce(lab, web, "gets", json!({"authorization": [rule]}))?;
    web.load_all(&Plan::get(4, "/slow?ms=5"))?;
    for client in CLIENTS {
        web.wait_more(client, 100)?;
    }
    Ok(())
}

fn ensure_left(lab: &Lab, web: &Web) -> Result<()> {
    wait_way(web, None)?;
    eventually("the waypoint and all of it to be gone", LIMIT + LIMIT, || {
        let left = made(lab, web)?;
        ensure!(left.is_empty(), "{left:?}");
        ensure!(web.waypoints(WAYPOINT)?.is_empty(), "its pods are there");
        Ok(())
    })?;
    for client in CLIENTS {
        web.wait_more(client, 200)?;
    }
    for stats in web.ensure_nothing_cut(&Default::default())? {
        println!("{} requests answered, 0 failed, none made again", stats.ok);
    }
    Ok(())
}

#[test]
fn leaving_namespace_deletes_its_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("unlabel", |web| {
        begin(&lab, web)?;
        lab.cluster
            .run_kubectl(&["label", "namespace", web.namespace(), "istio.io/dataplane-mode-"])?;
        ensure_left(&lab, web)?;
        eventually("the policy to say why nobody enforces it", LIMIT, || {
            let policy = get_policy(&lab, web, "gets")?;
            let (status, reason, message) = condition(&policy, "Programmed")?;
            ensure!(
                status == "False" && reason == "NamespaceNotEnrolled",
                "{reason}: {message}"
            );
            Ok(())
        })
    })
}

#[test]
fn uninstall_deletes_waypoints() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_web("uninstallw", |web| {
        begin(&lab, web)?;
        mesh::uninstall(&lab.cluster, &|message| println!("{message}"))?;
        ensure_left(&lab, web)
    });
    // For whichever test comes next.
    result.and(lab.install())
}
