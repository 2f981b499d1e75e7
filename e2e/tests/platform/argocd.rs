//! The mesh in git: the real Argo CD, from an empty cluster to the last prune.

mod changes;
mod clients;
mod drift;
mod errors;
mod removal;
mod team;

use std::time::Instant;

use ambit_e2e::argocd::{self, ArgoCd};
use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh;
use ambit_e2e::sample::{CLIENTS, Shop, Web};
use ambit_e2e::workspace;
use anyhow::{Context, Result, ensure};

/// The namespace of the examples.
const SHOP: &str = "shop";

const CHART: &str = "ambit-chart";
const MESH: &str = "ambit-mesh";
const NAMESPACES: &str = "ambit-namespaces";
const POLICIES: &str = "ambit-policies";
/// The app of apps.
const PARENT: &str = "ambit";

const FOLDER: &str = "examples/argocd";

/// Values with which the manifests have all that Argo CD applies: the images that the tests load, and the account of the hook.
const CHART_VALUES: &str = "image.registry=localhost/ambit,image.tag=dev,uninstall.deleteMesh=true";

/// Argo CD on the test cluster, and two applications in the namespace of the examples.
struct Story<'a> {
    lab: &'a Lab,
    argocd: &'a ArgoCd,
    shop: &'a Shop,
    web: &'a Web,
}

impl Story<'_> {
    /// Commits what has changed, and waits until each of these Applications has it and is Healthy.
    fn commit(&self, message: &str, applications: &[&str]) -> Result<String> {
        let revision = self.argocd.repository.commit(message)?;
        for name in applications {
            self.argocd.application(name).wait_healthy(&revision)?;
        }
        Ok(revision)
    }

    /// Commits what has changed, and waits until an Application says these words of it. Returns all that it says.
    fn commit_refused(&self, message: &str, application: &str, words: &[&str]) -> Result<String> {
        self.argocd.repository.commit(message)?;
        let application = self.argocd.application(application);
        application.refresh("normal")?;
        application.wait_said(words)
    }

    /// The status of the response to a request of each client.
    fn statuses(&self, method: &str) -> Result<[u16; 2]> {
        let [a, b] = CLIENTS.map(|client| self.web.request(client, &Request::new(method, "/")));
        Ok([a?.status, b?.status])
    }

    /// Waits until a request of each client gets this response.
    fn wait_status(&self, method: &str, status: u16) -> Result<()> {
        eventually(&format!("{method} to get {status}"), LIMIT, || {
            let got = self.statuses(method)?;
            ensure!(got == [status; 2], "it gets {got:?}");
            Ok(())
        })
    }

    /// The status of an object by kstatus, and why.
    fn kstatus(&self, object: &[&str]) -> Result<(String, String)> {
        argocd::kstatus(&self.argocd.programs, &self.lab.cluster.get(object)?)
    }
}

/// A step of a test, with what it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let result = work().with_context(|| what.to_owned());
    let outcome = if result.is_ok() { "" } else { " FAILED" };
    println!("[{:6.1} s] {what}{outcome}", begin.elapsed().as_secs_f32());
    result
}

#[test]
fn health_scripts_pass_their_tests_in_argo_cds_engine() -> Result<()> {
    let tests = argocd::test_health_scripts(&|message| println!("{message}"))?;
    println!("{tests}");
    for kind in ["Mesh", "AmbientNamespace", "WaypointPolicy"] {
        for health in ["Healthy", "Degraded", "Progressing"] {
            let found = tests
                .lines()
                .any(|line| line.starts_with(kind) && line.ends_with(health));
            ensure!(found, "no test of {kind} ends in {health}");
        }
    }
    Ok(())
}

#[test]
fn a_mesh_lives_in_git_from_the_first_sync_to_the_last_prune() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop(SHOP, |shop| {
        let web = Web::deploy(&lab.cluster, shop.clone())?;
        with_argocd(&lab, |argocd| {
            let story = Story {
                lab: &lab,
                argocd,
                shop,
                web: &web,
            };
            let policies = step("from empty to Synced and Healthy", || from_empty(&story))?;
            changes::all(&story, &policies)?;
            errors::all(&story)?;
            removal::all(&story)
        })
    })
}

/// One Application with the chart and the Mesh, and the Applications that its project refuses.
#[test]
fn one_application_brings_the_mesh_and_takes_it_away() -> Result<()> {
    let lab = Lab::enter()?;
    with_argocd(&lab, |argocd| {
        let revision = argocd.repository.commit("the examples")?;
        argocd.apply(&format!("{FOLDER}/project.yaml"))?;
        errors::application_is_refused(&lab, argocd)?;
        step("one Application: from empty to Healthy", || {
            argocd.apply(&format!("{FOLDER}/application.yaml"))?;
            argocd.application(PARENT).wait_healthy(&revision).map(drop)
        })?;
        step(
            "a team's Application labels its namespace, and takes the label away",
            || team::enrols_its_namespace(&lab.cluster, argocd),
        )?;
        step("one Application: deleted", || {
            let objects = [("mesh", "default"), ("deployment", "ambit-operator")];
            removal::in_order(&lab, argocd, &objects)?;
            removal::nodes_are_as_before(&lab)
        })
    })
}

/// Removes Ambit as Helm installed it, with its definitions and its namespace, runs `test`, and removes what Argo CD has
/// installed.
fn with_argocd(lab: &Lab, test: impl FnOnce(&ArgoCd) -> Result<()>) -> Result<()> {
    let progress = |message: &str| println!("{message}");
    step("helm uninstall", || {
        mesh::uninstall(&lab.cluster, &progress)?;
        clean_up(lab)
    })?;
    let argocd = step("start Argo CD", || ArgoCd::start(&lab.cluster, &progress))?;
    let result = test(&argocd).inspect_err(|_| eprintln!("{}", argocd.describe()));
    let removed = argocd.remove();
    let cleaned = clean_up(lab);
    result.and(removed).and(cleaned)
}

/// Removes what is left of Ambit, so that Helm can install it again: the chart accepts no object of another owner. Helm and
/// Argo CD leave the definitions and the namespace; a test that has failed may leave all.
fn clean_up(lab: &Lab) -> Result<()> {
    let cluster = &lab.cluster;
    let progress = |message: &str| println!("{message}");
    let chart = workspace().join("charts/ambit");
    let file = cluster.dir().join("ambit-left.yaml");
    std::fs::write(&file, mesh::manifests(&chart, &[CHART_VALUES], &progress)?)?;
    let file = file.display().to_string();
    let kind = cluster.run_kubectl(&[
        "get",
        "customresourcedefinition",
        "meshes.ambit.dev",
        "--ignore-not-found",
        "--output=name",
    ])?;
    if !kind.is_empty() && !cluster.list(&["meshes"])?.is_empty() {
        // Only the operator can release the pods.
        let apply = ["apply", "--server-side", "--force-conflicts", "--filename", &file];
        cluster.run_kubectl(&apply)?;
        cluster.run_kubectl(&["delete", "meshes", "--all", "--timeout=5m"])?;
    }
    let delete = [
        "delete",
        "--ignore-not-found",
        "--timeout=5m",
        "--filename",
        &file,
    ];
    cluster.run_kubectl(&delete).map(drop)
}

/// The example as it is shipped, but the namespace has no label yet, and there is no Application with policies: that is returned.
fn from_empty(story: &Story<'_>) -> Result<String> {
    let repository = &story.argocd.repository;
    let policies = repository.read(&format!("{FOLDER}/apps/policies.yaml"))?;
    repository.remove(&format!("{FOLDER}/apps/policies.yaml"))?;
    let label = "  labels:\n    istio.io/dataplane-mode: ambient\n";
    repository.replace(&format!("{FOLDER}/namespaces/shop.yaml"), label, "")?;
    let revision = repository.commit("the mesh")?;
    story.argocd.apply(&format!("{FOLDER}/project.yaml"))?;
    story.argocd.apply(&format!("{FOLDER}/app-of-apps.yaml"))?;
    for name in [PARENT, CHART, MESH, NAMESPACES] {
        story.argocd.application(name).wait_healthy(&revision)?;
    }
    mesh::wait_ready(&story.lab.cluster)?;
    waves(story)?;
    let (status, message) = story.kstatus(&["mesh", "default"])?;
    ensure!(status == "Current", "kstatus: {status}: {message}");
    Ok(policies)
}

/// The Mesh was applied after the operator's Deployment was there, and the namespace after the Mesh was Ready.
fn waves(story: &Story<'_>) -> Result<()> {
    let created = |object: &[&str]| -> Result<String> {
        let object = story.lab.cluster.get(object)?;
        let time = object["metadata"]["creationTimestamp"].as_str();
        Ok(time.context("an object has a time")?.to_owned())
    };
    let application = |name| created(&["applications.argoproj.io", name, "--namespace", argocd::NAMESPACE]);
    let operator = created(&["deployment", "ambit-operator", "--namespace", mesh::NAMESPACE])?;
    let (mesh, namespaces) = (application(MESH)?, application(NAMESPACES)?);
    ensure!(
        application(CHART)? <= operator && operator <= mesh && mesh <= namespaces,
        "operator {operator}, Mesh {mesh}, namespaces {namespaces}"
    );
    Ok(())
}
