//! What kstatus makes of objects of ours: Flux and kpt wait with this library.

use std::fs;
use std::path::Path;

use ambit_e2e::argocd;
use ambit_e2e::eventually;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh;
use ambit_e2e::tools::ArgoCdPrograms;
use ambit_e2e::workspace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const NAMESPACE: &str = "kstatus";

fn programs() -> Result<ArgoCdPrograms> {
    argocd::prepare(&|message| println!("{message}"))
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_yaml::from_str(&text).with_context(|| path.display().to_string())
}

/// Of each state, kstatus says the same as Argo CD's health script.
#[test]
fn kstatus_agrees_with_the_health_scripts() -> Result<()> {
    let programs = programs()?;
    for kind in ["Mesh", "AmbientNamespace", "WaypointPolicy"] {
        let folder = workspace().join("argocd/health/ambit.dev").join(kind);
        let tests = read(&folder.join("health_test.yaml"))?;
        for test in tests["tests"].as_array().context("there are no tests")? {
            let name = test["inputPath"].as_str().context("a test has an object")?;
            let expected = match test["healthStatus"]["status"].as_str() {
                Some("Healthy") => "Current",
                Some("Progressing") => "InProgress",
                Some("Degraded") => "Failed",
                other => bail!("{kind} {name}: no state of kstatus is like {other:?}"),
            };
            let mut object = read(&folder.join(name))?;
            let (status, message) = argocd::kstatus(&programs, &object)?;
            println!("{kind} {name}: {status}: {message}");
            ensure!(status == expected, "{kind} {name}: {status}: {message}");
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            let (status, message) = argocd::kstatus(&programs, &object)?;
            ensure!(
                status == "Terminating",
                "{kind} {name}, deleted: {status}: {message}"
            );
        }
    }
    Ok(())
}

/// As the API server has the objects, with its defaults: none is taken for ready before the operator has seen it.
#[test]
fn object_is_in_progress_until_the_operator_has_seen_it() -> Result<()> {
    let lab = Lab::enter()?;
    let programs = programs()?;
    lab.with_shop(NAMESPACE, |shop| {
        shop.enroll()?;
        let states = States {
            lab: &lab,
            programs: &programs,
        };
        states.wait(&AMBIENT, "Current")?;
        let absent = scale(&lab, "0").and_then(|()| states.without_operator());
        scale(&lab, "2")?;
        absent?;
        states.wait(&MESH, "Current")?;
        states.wait(&AMBIENT, "Current")?;
        // There is no such Service.
        states.wait(&POLICY, "Failed")?;
        states.deleted()
    })
}

const MESH: [&str; 2] = ["mesh", "default"];
const AMBIENT: [&str; 4] = ["ambientnamespace", "ambient", "--namespace", NAMESPACE];
const POLICY: [&str; 4] = ["waypointpolicy", "orders", "--namespace", NAMESPACE];

/// The pods that write statuses.
fn scale(lab: &Lab, replicas: &str) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let deployment = ["deployment/ambit-operator", "--namespace", mesh::NAMESPACE];
    lab.cluster
        .run_kubectl(&[&["scale", &replicas], &deployment[..]].concat())?;
    let wait = ["rollout", "status", "--timeout=180s"];
    lab.cluster
        .run_kubectl(&[&wait[..], &deployment].concat())
        .map(drop)
}

/// The objects of the test, and what judges them.
struct States<'a> {
    lab: &'a Lab,
    programs: &'a ArgoCdPrograms,
}

impl States<'_> {
    fn wait(&self, object: &[&str], expected: &str) -> Result<()> {
        eventually(&format!("{object:?} to be {expected}"), LIMIT, || {
            self.ensure(object, expected)
        })
    }

    fn ensure(&self, object: &[&str], expected: &str) -> Result<()> {
        let found = self.lab.cluster.get(object)?;
        let (status, message) = argocd::kstatus(self.programs, &found)?;
        ensure!(status == expected, "{object:?}: {status}: {message}");
        Ok(())
    }

    fn patch(&self, object: &[&str], patch: &Value) -> Result<()> {
        let patch = format!("--patch={patch}");
        self.lab
            .cluster
            .run_kubectl(&[&["patch", "--type=merge", &patch], object].concat())
            .map(drop)
    }

    /// A new object, and changed ones.
    fn without_operator(&self) -> Result<()> {
        eventually("all operators to be gone", LIMIT, || {
            let left = mesh::operators(&self.lab.cluster)?;
            ensure!(left.is_empty(), "{} are there", left.len());
            Ok(())
        })?;
        let policy = json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": "orders"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "orders"}], "timeouts": {"request": "5s"}},
        });
        self.lab.cluster.apply(NAMESPACE, &policy.to_string())?;
        self.ensure(&POLICY, "InProgress")?;
        // There and back: the generation is another one, the mesh is not.
        let mesh = self.lab.cluster.get(&MESH)?;
        for level in [&json!("debug"), &mesh["spec"]["telemetry"]["logLevel"]] {
            self.patch(&MESH, &json!({"spec": {"telemetry": {"logLevel": level}}}))?;
        }
        self.ensure(&MESH, "InProgress")?;
        self.patch(&AMBIENT, &json!({"spec": {"mtls": {"mode": "Strict"}}}))?;
        self.ensure(&AMBIENT, "InProgress")
    }

    fn deleted(&self) -> Result<()> {
        let finalizers = |all: Value| json!({"metadata": {"finalizers": all}});
        self.patch(&POLICY, &finalizers(json!(["example.com/hold"])))?;
        let delete = [&["delete", "--wait=false"], &POLICY[..]].concat();
        let deleted = self.lab.cluster.run_kubectl(&delete);
        let state = deleted.and_then(|_| self.ensure(&POLICY, "Terminating"));
        // Else the namespace would stay.
        self.patch(&POLICY, &finalizers(Value::Null)).and(state)
    }
}
