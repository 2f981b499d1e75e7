//! The mesh in git: the real Argo CD, from an empty cluster to the last prune.

mod changes;
mod errors;
mod removal;

use std::time::Instant;

use ambit_e2e::argocd::{self, ArgoCd};
use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab, ensure_as_before};
use ambit_e2e::mesh;
use ambit_e2e::sample::{CLIENTS, Plan, Shop, Web};
use ambit_e2e::{tools, workspace};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The namespace of the examples.
const SHOP: &str = "shop";

const CHART: &str = "ambit-chart";
const MESH: &str = "ambit-mesh";
const NAMESPACES: &str = "ambit-namespaces";
const POLICIES: &str = "ambit-policies";
/// The app of apps.
const PARENT: &str = "ambit";

const FOLDER: &str = "examples/argocd";

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

    /// What kstatus makes of an object.
    fn kstatus(&self, object: &[&str]) -> Result<(String, String)> {
        self.argocd.kstatus(&self.lab.cluster.get(object)?)
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
        step("one Application: deleted", || {
            removal::in_order(
                &lab,
                argocd,
                &[("mesh", "default"), ("deployment", "ambit-operator")],
            )
        })
    })
}

/// Takes Ambit as Helm installed it away, runs `test`, and takes away what Argo CD has installed.
fn with_argocd(lab: &Lab, test: impl FnOnce(&ArgoCd) -> Result<()>) -> Result<()> {
    let progress = |message: &str| println!("{message}");
    step("helm uninstall", || mesh::uninstall(&lab.cluster, &progress))?;
    let argocd = step("start Argo CD", || ArgoCd::start(&lab.cluster, &progress))?;
    let result = test(&argocd).inspect_err(|_| eprintln!("{}", argocd.describe()));
    let removed = argocd.remove();
    let cleaned = clean_up(lab);
    result.and(removed).and(cleaned)
}

/// Removes what is there of Ambit, whoever installed it, so that Helm can install it again.
fn clean_up(lab: &Lab) -> Result<()> {
    let cluster = &lab.cluster;
    let definition = [
        "get",
        "customresourcedefinition",
        "meshes.ambit.dev",
        "--ignore-not-found",
    ];
    if !cluster.run_kubectl(&definition)?.is_empty() {
        let all = [
            "delete",
            "mesh,waypointpolicies,ambientnamespaces",
            "--all",
            "--all-namespaces",
        ];
        cluster.run_kubectl(&[&all[..], &["--timeout=4m"]].concat())?;
    }
    let mut helm = cluster.helm(&|message| println!("{message}"))?;
    helm.args(["template", mesh::RELEASE])
        .arg(workspace().join("charts/ambit"));
    helm.args(["--namespace", mesh::NAMESPACE, "--include-crds"]);
    helm.args(["--kube-version", tools::KUBERNETES_VERSION]);
    let rendered = helm.output().context("cannot run helm")?;
    ensure!(
        rendered.status.success(),
        "{}",
        String::from_utf8_lossy(&rendered.stderr)
    );
    let file = cluster.dir().join("chart.yaml");
    std::fs::write(&file, rendered.stdout)?;
    let file = file.display().to_string();
    cluster.run_kubectl(&[
        "delete",
        "--ignore-not-found",
        "--timeout=2m",
        "--namespace",
        mesh::NAMESPACE,
        "--filename",
        &file,
    ])?;
    Ok(())
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

/// Requests of both load generators, eighty a second.
fn load() -> Plan {
    Plan::get(4, "/load").every(100)
}

/// The generation of every object that the Applications have applied, by kind, namespace and name.
fn generations(story: &Story<'_>) -> Result<Vec<(String, Value)>> {
    let mut all = Vec::new();
    for name in [PARENT, CHART, MESH, NAMESPACES, POLICIES] {
        let application = story.argocd.application(name).get()?;
        let resources = application["status"]["resources"].as_array().cloned();
        for resource in resources.context("an Application has objects")? {
            // Argo CD writes the status of an Application into its own generation.
            if resource["kind"] == "Application" {
                continue;
            }
            let text = |field: &str| resource[field].as_str().unwrap_or_default().to_owned();
            let kind = match text("group") {
                group if group.is_empty() => text("kind"),
                group => format!("{}.{}.{group}", text("kind"), text("version")),
            };
            let (object, namespace) = (text("name"), text("namespace"));
            let namespace = if namespace.is_empty() {
                "default".to_owned()
            } else {
                namespace
            };
            let found = story
                .lab
                .cluster
                .get(&[&kind, &object, "--namespace", &namespace])?;
            let metadata = &found["metadata"];
            // Statuses change the version of an object; the spec of what has none is all of it.
            let version = if found["status"].is_null() {
                &metadata["resourceVersion"]
            } else {
                &Value::Null
            };
            let state = json!([metadata["uid"], metadata["generation"], version]);
            all.push((format!("{kind} {namespace}/{object}"), state));
        }
    }
    Ok(all)
}
