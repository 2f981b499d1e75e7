//! `helm uninstall` and what it leaves: nothing.

use ambit_e2e::mesh;
use ambit_e2e::{eventually, sample::Shop};
use anyhow::{Result, ensure};

use crate::enrolment::ensure_untouched;
use ambit_e2e::lab::{LIMIT, Lab, ensure_as_before};

#[test]
fn uninstall_restores_nodes_and_pods() -> Result<()> {
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
fn foreground_deletion_cuts_no_pod() -> Result<()> {
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
