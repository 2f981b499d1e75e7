//! `mesh.create`: the Mesh is of the chart's values, and nobody applies it by hand.

use ambit_e2e::lab::Lab;
use ambit_e2e::mesh;
use ambit_e2e::sample::Shop;
use anyhow::{Result, ensure};

use super::{OWN_IMAGES, ensure_says, own_chart, refused, run, upgrade, without_ambit};

/// From the installation through upgrades to the removal: the Mesh has the spec of the values, a namespace is enrolled
/// all the while, and its clients fail no request.
#[test]
fn mesh_of_the_values_is_created_changed_and_removed() -> Result<()> {
    let lab = Lab::enter()?;
    without_ambit(&lab, || {
        lab.with_shop("created", |shop| {
            create(&lab, shop)?;
            change(&lab, shop)?;
            keep(&lab, shop)?;
            refuse(&lab)?;
            remove(&lab, shop)
        })
    })
}

fn create(lab: &Lab, shop: &Shop) -> Result<()> {
    release(
        lab,
        "mesh.spec.identity.leafTTL=2h,mesh.spec.telemetry.logLevel=debug",
    )?;
    ensure_mesh(lab, "2h", "debug")?;
    ensure_no_job(lab)?;
    shop.enroll()?;
    ensure_requests(shop)
}

/// A field that the values no longer have has its default again.
fn change(lab: &Lab, shop: &Shop) -> Result<()> {
    release(lab, "mesh.spec.identity.leafTTL=3h")?;
    ensure_mesh(lab, "3h", "info")?;
    ensure_requests(shop)
}

/// The Mesh stays when the values no longer create it.
fn keep(lab: &Lab, shop: &Shop) -> Result<()> {
    run(&mut upgrade(lab, &own_chart(), &["--set", OWN_IMAGES])?)?;
    ensure_mesh(lab, "3h", "info")?;
    ensure_no_job(lab)?;
    ensure_requests(shop)
}

/// What the API server refuses ends the upgrade with the reason, and the Mesh stays as it was.
fn refuse(lab: &Lab) -> Result<()> {
    let wrong = values("mesh.spec.identity.leafTTL=30s");
    let text = refused(&mut upgrade(lab, &own_chart(), &["--set", &wrong])?)?;
    println!("{text}");
    ensure_says(
        &text,
        &[
            "the Mesh of the chart's values (`mesh.spec`)",
            "leafTTL must be between 1m and 720h",
        ],
    )?;
    ensure_mesh(lab, "3h", "info")
}

/// A release that has created its Mesh takes it along, and pods leave the mesh before that.
fn remove(lab: &Lab, shop: &Shop) -> Result<()> {
    release(lab, "mesh.spec.mtls.mode=Permissive")?;
    ensure_mesh(lab, "24h", "info")?;
    mesh::uninstall(&lab.cluster, &|message| println!("{message}"))?;
    let left = lab.cluster.list(&["meshes"])?;
    ensure!(left.is_empty(), "{left:?}");
    ensure_no_job(lab)?;
    let captured: Vec<String> = shop
        .pods()?
        .into_iter()
        .filter(|pod| pod.captured)
        .map(|pod| pod.name)
        .collect();
    ensure!(captured.is_empty(), "pods are still captured: {captured:?}");
    ensure_requests(shop)
}

/// The Job that applies the Mesh is gone after each command that succeeds, and so are its rights.
fn ensure_no_job(lab: &Lab) -> Result<()> {
    let kinds = "clusterroles,clusterrolebindings,jobs,serviceaccounts";
    let left = lab.cluster.list(&[kinds, "--all-namespaces"])?;
    let left: Vec<_> = left
        .iter()
        .filter(|object| object["metadata"]["name"] == "ambit-mesh")
        .map(|object| &object["kind"])
        .collect();
    ensure!(left.is_empty(), "objects of the Job are left: {left:?}");
    Ok(())
}

/// Values with a Mesh that the chart creates.
fn values(spec: &str) -> String {
    format!("{OWN_IMAGES},mesh.create=true,{spec}")
}

/// Installs the chart, or upgrades it, with a Mesh of this spec.
fn release(lab: &Lab, spec: &str) -> Result<()> {
    run(&mut upgrade(lab, &own_chart(), &["--set", &values(spec)])?)?;
    println!("{spec}: Helm has returned");
    Ok(())
}

/// The Mesh has these settings and becomes Ready with them.
fn ensure_mesh(lab: &Lab, leaf_ttl: &str, log_level: &str) -> Result<()> {
    mesh::wait_ready(&lab.cluster)?;
    let spec = &lab.cluster.get(&["mesh", "default"])?["spec"];
    let found = (&spec["identity"]["leafTTL"], &spec["telemetry"]["logLevel"]);
    ensure!(found.0 == leaf_ttl && found.1 == log_level, "the Mesh has {spec}");
    Ok(())
}

/// Both clients get responses, and none of their requests has failed.
fn ensure_requests(shop: &Shop) -> Result<()> {
    for client in ["client-a", "client-b"] {
        let stats = shop.wait_more(client, 10)?;
        ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
    }
    Ok(())
}
