//! Installation in other ways than the usual: as manifests, into a namespace that refuses the agents.

use ambit_e2e::eventually;
use ambit_e2e::kube::condition;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh;
use anyhow::{Context, Result, bail, ensure};

use super::{OWN_IMAGES, ensure_says, helm, own_chart, refused, run, upgrade, without_ambit};

const TEST: [&str; 4] = ["test", mesh::RELEASE, "--namespace", mesh::NAMESPACE];

#[test]
fn helm_test_checks_operator_control_plane_and_mesh() -> Result<()> {
    let lab = Lab::enter()?;
    let text = run(&mut helm(&lab, &TEST)?)?;
    println!("{text}");
    ensure_says(
        &text,
        &[
            "ambit-control: 2 replicas are available",
            "ambit-operator: 2 replicas are available",
            "the Mesh is Ready: agent: 2 of 2",
        ],
    )?;
    let left = lab
        .cluster
        .list(&["clusterroles,jobs,serviceaccounts", "--all-namespaces"])?;
    let names = left
        .iter()
        .filter(|object| object["metadata"]["name"] == "ambit-check");
    ensure!(names.count() == 0, "the test leaves objects");
    Ok(())
}

#[test]
fn manifests_install_it_without_helm() -> Result<()> {
    let lab = Lab::enter()?;
    let file = std::env::temp_dir().join(format!("ambit-install-{}.yaml", std::process::id()));
    let path = file.display().to_string();
    let result = without_ambit(&lab, || {
        // So that the manifests make it.
        lab.cluster
            .run_kubectl(&["delete", "namespace", mesh::NAMESPACE])?;
        std::fs::write(
            &file,
            mesh::manifests(own_chart().as_ref(), &[OWN_IMAGES], &|message| {
                println!("{message}")
            })?,
        )?;
        for round in ["first", "again"] {
            let text = lab
                .cluster
                .run_kubectl(&["apply", "--server-side", "--filename", &path])?;
            println!("{round}: {} objects are applied", text.lines().count());
        }
        mesh::apply(&lab.cluster, mesh::MESH)?;
        let level = lab.cluster.get(&["namespace", mesh::NAMESPACE])?;
        ensure!(level["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged");
        let text = refused(&mut upgrade(&lab, &own_chart(), &["--set", OWN_IMAGES])?)?;
        ensure_says(&text, &["installed in this cluster already, and not by Helm"])?;
        lab.cluster
            .run_kubectl(&["delete", "mesh", "default", "--timeout=5m"])?;
        lab.cluster
            .run_kubectl(&["delete", "--filename", &path, "--timeout=5m"])
            .map(drop)
    });
    std::fs::remove_file(&file).context("the manifests")?;
    result
}

/// Pods that the API server does not admit are in no list of pods.
#[test]
fn a_namespace_that_refuses_the_agents_shows_in_the_mesh() -> Result<()> {
    let lab = Lab::enter()?;
    let level = "pod-security.kubernetes.io/enforce";
    let enforce = |value: &str| {
        let label = ["label", "--overwrite", "namespace", mesh::NAMESPACE, value];
        lab.cluster.run_kubectl(&label).map(drop)
    };
    let result = without_ambit(&lab, || {
        run(&mut upgrade(&lab, &own_chart(), &["--set", OWN_IMAGES])?)?;
        enforce(&format!("{level}=baseline"))?;
        lab.cluster.apply(mesh::NAMESPACE, mesh::MESH)?;
        let message = eventually("the Mesh to count the pods", LIMIT, || {
            let mesh = lab.cluster.get(&["mesh", "default"])?;
            let Some((_, "RollingOut", message)) = condition(&mesh, "Ready") else {
                bail!("{}", mesh["status"]);
            };
            ensure_says(message, &["2 pods of ambit-agent", "enforce=privileged"])?;
            Ok(message.to_owned())
        })?;
        println!("{message}");
        // The remedy, as it stands there.
        enforce(&format!("{level}=privileged"))?;
        mesh::wait_ready(&lab.cluster)
    });
    result.and(enforce(&format!("{level}-")))
}
