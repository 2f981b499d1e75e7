//! What `kubectl` shows.

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, is_ready};
use anyhow::{Result, bail, ensure};
use serde_json::json;

use ambit_e2e::lab::{LIMIT, Lab};

/// Fails unless the Mesh counts what its namespaces do.
fn ensure_sums(lab: &Lab) -> Result<()> {
    let status = &lab.cluster.get(&["mesh", "default"])?["status"];
    let namespaces = lab.cluster.list(&["ambientnamespaces", "--all-namespaces"])?;
    let captured = namespaces
        .iter()
        .filter_map(|object| object["status"]["pods"]["captured"].as_u64())
        .sum::<u64>();
    ensure!(
        status["enrolledNamespaces"] == namespaces.len(),
        "{status} for {} namespaces",
        namespaces.len()
    );
    ensure!(
        status["pods"]["captured"] == captured,
        "{status} for {captured} pods"
    );
    Ok(())
}

#[test]
fn statuses_are_true_at_each_step() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("truth", |shop| {
        eventually("the Mesh to be on every node", LIMIT, || {
            let before = lab.cluster.get(&["mesh", "default"])?;
            is_ready(&before)?;
            let nodes = lab.cluster.nodes().len();
            ensure!(
                before["status"]["nodes"] == format!("{nodes}/{nodes}"),
                "{}",
                before["status"]
            );
            Ok(())
        })?;
        let none = lab
            .cluster
            .list(&["ambientnamespaces", "--namespace", shop.namespace()])?;
        ensure!(none.is_empty(), "an object before the label: {none:?}");

        shop.enroll()?;
        eventually("the objects to say that four pods are captured", LIMIT, || {
            let object = shop.ambient()?;
            is_ready(&object)?;
            let pods = &object["status"]["pods"];
            ensure!(
                pods["total"] == 4 && pods["captured"] == 4 && pods["failed"] == 0,
                "{pods}"
            );
            ensure_sums(&lab)
        })?;
        let table = lab
            .cluster
            .run_kubectl(&["get", "mesh,ambientnamespaces", "--all-namespaces"])?;
        for word in [
            "READY",
            "REASON",
            "VERSION",
            "NODES",
            "CAPTURED",
            "FAILED",
            "mesh.ambit.dev/default",
            "True",
            "truth",
        ] {
            ensure!(table.contains(word), "no {word} in\n{table}");
        }
        let told = [
            "events",
            "--field-selector=reason=Enrolled",
            "--namespace",
            shop.namespace(),
        ];
        eventually("an event to tell of it", LIMIT, || {
            ensure!(!lab.cluster.list(&told)?.is_empty(), "none does");
            Ok(())
        })?;

        shop.release()?;
        eventually("the objects to say that no pod is captured", LIMIT, || {
            let left = lab
                .cluster
                .list(&["ambientnamespaces", "--namespace", shop.namespace()])?;
            ensure!(left.is_empty(), "what the operator made is left: {left:?}");
            ensure_sums(&lab)
        })
    })
}

#[test]
fn kubectl_explain_reads_as_documentation() -> Result<()> {
    let lab = Lab::enter()?;
    let tree = lab
        .cluster
        .run_kubectl(&["explain", "mesh.spec", "--recursive"])?;
    for field in [
        "trustDomain",
        "leafTTL",
        "mode",
        "ztunnel",
        "accessLog",
        "enum: Permissive, Strict",
    ] {
        ensure!(tree.contains(field), "no {field} in\n{tree}");
    }
    for path in [
        "mesh",
        "mesh.spec.identity.leafTTL",
        "ambientnamespace.spec.authorization.from.principals",
    ] {
        let text = lab.cluster.run_kubectl(&["explain", path])?;
        let Some((_, description)) = text.split_once("DESCRIPTION:") else {
            bail!("no description of {path}:\n{text}")
        };
        ensure!(
            description.split_whitespace().count() > 10 && !description.contains("<empty>"),
            "{path}:\n{text}"
        );
    }
    Ok(())
}

#[test]
fn config_dump_has_workloads_and_policies() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("dump", |shop| {
        shop.enroll()?;
        let client = shop.pod_of("client-a")?;
        let ztunnel = lab.ztunnel_of(&client)?;
        let certificate = "spiffe://cluster.local/ns/dump/sa/client-a";
        let dump = eventually("the certificate to be in the dump", LIMIT, || {
            let dump = mesh::config_dump(&lab.cluster, &ztunnel)?;
            let held = dump["certificates"].to_string();
            ensure!(held.contains(certificate), "{held}");
            Ok(dump)
        })?;
        let workload = &dump["workloads"][client.ip.to_string()];
        for (field, value) in [
            ("workloadIp", client.ip.to_string()),
            ("protocol", "HBONE".into()),
            ("name", client.name.clone()),
            ("namespace", "dump".into()),
            ("serviceAccount", "client-a".into()),
            ("workloadName", "client-a".into()),
            ("canonicalName", "client-a".into()),
            ("canonicalRevision", "latest".into()),
            ("node", client.node.clone()),
            ("status", "Healthy".into()),
        ] {
            ensure!(workload[field] == value, "{field} is not {value} in {workload}");
        }
        ensure!(
            workload["workloadType"]
                .as_str()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("deployment")),
            "{workload}"
        );
        ensure!(workload["authorizationPolicies"].is_array(), "{workload}");
        let text = dump.to_string();
        ensure!(
            text.contains("server.dump.svc.cluster.local"),
            "the Service is not in it"
        );
        ensure!(!text.contains("PRIVATE KEY"), "a key is in it");

        let principal = "cluster.local/ns/dump/sa/nobody";
        let rule = json!({"name": "no-nobody", "action": "Deny", "from": [{"principals": [principal]}]});
        let object = json!({
            "apiVersion": "ambit.dev/v1alpha1",
            "kind": "AmbientNamespace",
            "metadata": {"name": "ambient"},
            "spec": {"authorization": [rule]},
        });
        lab.cluster.apply(shop.namespace(), &object.to_string())?;
        eventually("the rule to be in the dump", LIMIT, || {
            let policy = &mesh::config_dump(&lab.cluster, &ztunnel)?["policies"]["dump/no-nobody"];
            ensure!(
                policy["namespace"] == "dump" && policy["name"] == "no-nobody" && policy["action"] == "Deny",
                "{policy}"
            );
            ensure!(
                policy.pointer("/groups/0/0/0/principals") == Some(&json!([{"Exact": principal}])),
                "{policy}"
            );
            Ok(())
        })
    })
}
