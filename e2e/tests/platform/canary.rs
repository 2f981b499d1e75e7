//! A canary that Flagger drives to its end, under load.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ambit_e2e::eventually;
use ambit_e2e::lab::{Definitions, LIMIT, Lab};
use ambit_e2e::prometheus::Prometheus;
use ambit_e2e::sample::{Plan, Web};
use ambit_e2e::tools;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../../../examples/canary/canary.yaml");

/// Where the example has its Prometheus.
const PROMETHEUS: &str = "http://prometheus.monitoring:9090";

/// When the canary has to be at its end: three steps, the promotion, and time for the metrics.
const END: Duration = Duration::from_secs(300);

/// The controller. It ends with this value.
struct Controller(Child);

impl Controller {
    fn start(lab: &Lab, flagger: &tools::Flagger, namespace: &str) -> Result<Self> {
        // A free port, if nobody takes it in between.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = File::create(lab.cluster.dir().join("log/flagger.log"))?;
        let process = Command::new(flagger.program())
            .arg(format!("-kubeconfig={}", lab.cluster.kubeconfig().display()))
            .args(["-mesh-provider=gatewayapi:v1", "-log-level=info"])
            .arg(format!("-namespace={namespace}"))
            .arg(format!("-port={port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Flagger")?;
        Ok(Self(process))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The phase of the canary.
fn phase(lab: &Lab, web: &Web) -> Result<String> {
    let canary = lab
        .cluster
        .get(&["canary", "web", "--namespace", web.namespace()])?;
    let phase = canary["status"]["phase"].as_str().unwrap_or_default();
    if phase == "Failed" {
        bail!("it failed: {}", canary["status"]);
    }
    Ok(phase.to_owned())
}

/// The weight of the new version in the route.
fn weight(lab: &Lab, web: &Web) -> Result<u64> {
    let route = lab
        .cluster
        .get(&["httproute", "web", "--namespace", web.namespace()])?;
    let backends = route
        .pointer("/spec/rules/0/backendRefs")
        .and_then(Value::as_array);
    let canary = backends.and_then(|all| all.iter().find(|backend| backend["name"] == "web-canary"));
    let weight = canary.and_then(|backend| backend["weight"].as_u64());
    weight.with_context(|| format!("no weight in {}", route["spec"]))
}

fn drive(lab: &Lab, web: &Web, flagger: &tools::Flagger) -> Result<()> {
    // So that Prometheus finds a waypoint when it starts.
    let policy = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": "web"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "retry": {"conditions": ["ConnectFailure", "Reset"]}},
    });
    lab.cluster.apply(web.namespace(), &policy.to_string())?;
    eventually("a waypoint", LIMIT, || {
        let pods = web.waypoints("waypoint")?;
        ensure!(!pods.is_empty() && pods.iter().all(|pod| pod.ready), "{pods:?}");
        Ok(())
    })?;
    let prometheus = Prometheus::start(&lab.cluster, &|message| println!("{message}"))?;
    let _controller = Controller::start(lab, flagger, web.namespace())?;
    let address = format!("http://{}", prometheus.address());
    lab.cluster
        .apply(web.namespace(), &EXAMPLE.replace(PROMETHEUS, &address))?;
    eventually("the first version to be taken over", LIMIT, || {
        let phase = phase(lab, web)?;
        ensure!(phase == "Initialized", "its phase is {phase:?}");
        ensure!(weight(lab, web)? == 0, "the new version has a weight already");
        Ok(())
    })?;

    web.load_all(&Plan::get(2, "/").every(20))?;
    for client in ambit_e2e::sample::CLIENTS {
        web.wait_more(client, 50)?;
    }
    lab.cluster.run_kubectl(&[
        "set",
        "env",
        "deployment/web",
        "VERSION=2",
        "--namespace",
        web.namespace(),
    ])?;
    let mut weights = BTreeSet::new();
    eventually("the canary to be at its end", END, || {
        // An error of the look itself is no reason to go on.
        weights.insert(weight(lab, web)?);
        let phase = phase(lab, web)?;
        ensure!(
            phase == "Succeeded",
            "its phase is {phase:?}, its weights were {weights:?}"
        );
        Ok(())
    })?;
    let counts = web.ensure_no_failure()?;
    println!(
        "weights {weights:?}; {} requests, none failed",
        counts.iter().map(|counts| counts.ok).sum::<u64>()
    );
    ensure!(
        weights.is_superset(&BTreeSet::from([0, 20, 40, 60])),
        "the weights were {weights:?}"
    );
    let primary = lab
        .cluster
        .get(&["deployment", "web-primary", "--namespace", web.namespace()])?;
    ensure!(
        primary.to_string().contains("VERSION"),
        "the new version was not taken over"
    );
    Ok(())
}

#[test]
fn canary_is_driven_to_its_end_by_flagger() -> Result<()> {
    let lab = Lab::enter()?;
    let flagger = tools::flagger(&|message| println!("{message}"))?;
    let definitions = Definitions::install(&lab, &["httproutes", "referencegrants"])?;
    let file = format!("--filename={}", flagger.definitions().display());
    lab.cluster
        .run_kubectl(&["apply", "--server-side", "--force-conflicts", &file])?;
    let result = lab.with_web("canary", |web| drive(&lab, web, &flagger));
    let removed = lab
        .cluster
        .run_kubectl(&["delete", "--ignore-not-found", "--timeout=2m", &file]);
    result.and(removed.map(drop)).and(definitions.remove())
}
