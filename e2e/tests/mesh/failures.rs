//! Parts of the mesh die, and traffic goes on.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, Pod};
use ambit_e2e::sample::{Shop, Stats, millis};
use ambit_e2e::wire;
use anyhow::{Context, Result, bail, ensure};

use crate::enrolment::ensure_in_mesh;
use ambit_e2e::lab::{LIMIT, Lab};

/// What is not the data plane.
const DEPLOYMENTS: [&str; 2] = ["deployment/ambit-control", "deployment/ambit-operator"];

/// The pods of both kinds that are not the data plane, and their container.
pub(crate) fn operators(lab: &Lab) -> Result<Vec<(Pod, &'static str)>> {
    let serving = mesh::control_planes(&lab.cluster)?
        .into_iter()
        .map(|pod| (pod, "control"));
    let writing = mesh::operators(&lab.cluster)?
        .into_iter()
        .map(|pod| (pod, "operator"));
    Ok(serving.chain(writing).collect())
}

/// Runs `test` while there are none, and waits until they are back.
pub(crate) fn without_operators(lab: &Lab, test: impl FnOnce() -> Result<()>) -> Result<()> {
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let scale = ["scale", "--namespace", mesh::NAMESPACE, &replicas];
        lab.cluster.run_kubectl(&[&scale[..], &DEPLOYMENTS].concat())
    };
    let alone = || {
        eventually("all operators and control planes to be gone", LIMIT, || {
            let left: Vec<_> = operators(lab)?.into_iter().map(|(pod, _)| pod.name).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        test()
    };
    let result = scale("0").and_then(|_| alone());
    scale("2")?;
    result?;
    wait_operators(lab)
}

/// Waits until both kinds are rolled out.
pub(crate) fn wait_operators(lab: &Lab) -> Result<()> {
    for deployment in DEPLOYMENTS {
        let wait = [
            "rollout",
            "status",
            deployment,
            "--timeout=180s",
            "--namespace",
            mesh::NAMESPACE,
        ];
        lab.cluster.run_kubectl(&wait)?;
    }
    Ok(())
}

/// A client that makes some hundred connections a second and keeps one, on the node of `near`.
fn start_load(shop: &Shop) -> Result<Pod> {
    let arguments = [
        "client",
        "--http=http://server:8080/",
        "--tcp=server:9090",
        "--stream=server:9090",
        "--interval=5",
    ];
    shop.run_pod("load", "load", &arguments)?;
    eventually("the load to run inside of the mesh", LIMIT, || {
        let pod = shop.pod_of("load")?;
        ensure!(pod.captured, "it is not captured");
        let stats = shop.stats("load")?;
        ensure!(
            stats.flows.len() == 3 && stats.flows.values().all(|flow| flow.ok > 20),
            "{stats:?}"
        );
        Ok(pod)
    })
}

/// Ends the first process of a container with SIGKILL.
pub(crate) fn kill(lab: &Lab, pod: &Pod, container: &str) -> Result<()> {
    let pid = pod.node(&lab.cluster)?.container_pid(&pod.uid, container)?;
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot kill {container} of {}", pod.name);
    Ok(())
}

/// Ends the first process of a container with SIGKILL, and waits until it was started again and is Ready.
pub(crate) fn kill_container(lab: &Lab, pod: &Pod, container: &str) -> Result<()> {
    kill(lab, pod, container)?;
    wait_started_again(lab, pod, true)
}

/// A container that stands still.
pub(crate) struct Frozen(u32);

impl Frozen {
    pub(crate) fn freeze(lab: &Lab, pod: &Pod, container: &str) -> Result<Self> {
        let pid = pod.node(&lab.cluster)?.container_pid(&pod.uid, container)?;
        signal("-STOP", pid)?;
        Ok(Self(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile, and started again.
        if let Err(error) = signal("-CONT", self.0) {
            println!("a container was not let go on: {error:#}");
        }
    }
}

fn signal(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "no process {pid} takes {signal}");
    Ok(())
}

/// Waits until a container of `pod`, which was killed, was started again and is Ready, or is not.
pub(crate) fn wait_started_again(lab: &Lab, pod: &Pod, ready: bool) -> Result<()> {
    eventually(&format!("{} to be started again", pod.name), LIMIT, || {
        let now = Pod::list(&lab.cluster, &pod.namespace, "")?
            .into_iter()
            .find(|now| now.uid == pod.uid);
        let now = now.context("it is gone")?;
        ensure!(
            now.restarts > pod.restarts && now.ready == ready,
            "restarts {}, ready {}",
            now.restarts,
            now.ready
        );
        Ok(())
    })
}

fn failures(stats: &Stats) -> String {
    stats
        .failures
        .iter()
        .map(|failure| format!("\n  {failure:?}"))
        .collect()
}

fn agents(lab: &Lab) -> Result<Vec<Pod>> {
    Pod::list(
        &lab.cluster,
        mesh::NAMESPACE,
        "app.kubernetes.io/name=ambit-agent",
    )
}

/// Neither the load nor the sample's own clients had a failure, and the load's long connection is the one that it began
/// with.
fn ensure_unharmed(shop: &Shop) -> Result<()> {
    for client in ["load", "client-a", "client-b"] {
        let stats = shop.stats(client)?;
        ensure!(stats.total_failed() == 0, "{client}: {}", failures(&stats));
    }
    let stream = shop.stats("load")?.flows["stream"];
    ensure!(stream.connections == 1, "the long connection was cut: {stream:?}");
    Ok(())
}

#[test]
fn traffic_continues_without_operator() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("headless", |shop| {
        shop.enroll()?;
        // Killed, not asked: no stream ends politely and no lease is released. Scaled down, so that they stay away for
        // a while.
        for (operator, container) in operators(&lab)? {
            kill(&lab, &operator, container)?;
        }
        without_operators(&lab, || {
            for client in ["client-a", "client-b"] {
                shop.wait_more(client, 30)?;
            }
            shop.run_pod("late", "late", &["client", "--http=http://server:8080/"])
        })?;
        eventually(
            "the pod that came meanwhile to be captured and served",
            LIMIT,
            || {
                ensure!(shop.pod_of("late")?.captured, "it is not captured");
                let stats = shop.stats("late")?;
                ensure!(stats.total_ok() > 10, "{stats:?}");
                Ok(())
            },
        )?;
        for client in ["client-a", "client-b"] {
            let stats = shop.stats(client)?;
            ensure!(stats.total_failed() == 0, "{client}: {}", failures(&stats));
        }
        mesh::wait_ready(&lab.cluster)
    })
}

#[test]
fn killed_ztunnel_fails_no_new_connection() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("killz", |shop| {
        shop.enroll()?;
        // A connection that leaves in plaintext fails, too.
        shop.make_strict()?;
        let load = start_load(shop)?;
        let near = lab.ztunnel_of(&load)?;
        let far = mesh::ztunnels(&lab.cluster)?
            .into_iter()
            .find(|other| other.node != load.node);
        let far = far.context("there is one node only")?;
        for (place, ztunnel) in [("the client's", near), ("a server's", far)] {
            let before = shop.stats("load")?.failures.len();
            kill(&lab, &ztunnel, "ztunnel")?;
            let killed = millis(SystemTime::now());
            wait_started_again(&lab, &ztunnel, true)?;
            shop.wait_more("load", 100)?;
            for client in ["load", "client-a", "client-b"] {
                let stats = shop.stats(client)?;
                // In whole milliseconds: what was begun in that of the signal may be of before it.
                if let Some(failure) = stats
                    .failures
                    .iter()
                    .find(|failure| failure.connection_begun > killed)
                {
                    bail!("{place} ztunnel was killed at {killed}, and {client} had {failure:?}");
                }
            }
            let cut = shop.stats("load")?.failures.len() - before;
            println!("{place} ztunnel killed: {cut} connections that it had accepted were cut");
        }
        Ok(())
    })
}

#[test]
fn killed_agent_fails_nothing() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("killa", |shop| {
        shop.enroll()?;
        start_load(shop)?;
        for agent in agents(&lab)? {
            kill_container(&lab, &agent, "agent")?;
            shop.wait_more("load", 100)?;
        }
        ensure_unharmed(shop)?;
        // The agent that came back works: it captures what is new.
        let (succeeded, said) = shop.run_to_end("after", "after", &["get", "http://server:8080/"])?;
        ensure!(succeeded, "a pod after the agents' return: {said}");
        Ok(())
    })
}

/// Connections need nothing of the agents: neither new ones nor old ones, however many.
#[test]
fn stopped_agents_fail_no_connection() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("freezea", |shop| {
        shop.enroll()?;
        start_load(shop)?;
        let agents = agents(&lab)?;
        ensure!(agents.len() == 2, "{agents:?}");
        let frozen = agents
            .iter()
            .map(|agent| Frozen::freeze(&lab, agent, "agent"))
            .collect::<Result<Vec<_>>>()?;
        shop.wait_more("load", 1500)?;
        shop.wait_more("client-a", 20)?;
        shop.wait_more("client-b", 20)?;
        drop(frozen);
        ensure_unharmed(shop)?;
        let (succeeded, said) = shop.run_to_end("after", "after", &["get", "http://server:8080/"])?;
        ensure!(succeeded, "a pod after the agents went on: {said}");
        Ok(())
    })
}

#[test]
fn node_recovers_from_power_loss() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("power", |shop| {
        shop.enroll()?;
        let victim = shop.pod_of("client-b")?;
        let node = victim.node(&lab.cluster)?;
        node.kill()?;
        node.start()?;
        eventually(
            "the node's client to run again and be answered",
            LIMIT + LIMIT,
            || {
                // Its counts restart with it.
                let stats = shop.stats("client-b")?;
                ensure!(
                    stats.flows.values().filter(|flow| flow.ok > 20).count() == 3,
                    "{stats:?}"
                );
                Ok(())
            },
        )?;
        let pods = eventually("every pod to be Ready and captured", LIMIT + LIMIT, || {
            let pods = shop.pods()?;
            let bad: Vec<&Pod> = pods.iter().filter(|pod| !pod.ready || !pod.captured).collect();
            ensure!(bad.is_empty(), "{bad:?}");
            for pod in &pods {
                ensure_in_mesh(&lab, pod)?;
            }
            Ok(pods)
        })?;
        shop.wait_captured()?;
        mesh::wait_ready(&lab.cluster)?;
        let addresses: Vec<_> = pods.iter().map(|pod| pod.ip).collect();
        wire::only_hbone(&lab.record(shop, 20)?, &addresses)?;
        ensure!(
            fs::read_dir(node.disk().join("ambit"))?.next().is_some(),
            "no snapshot is on the node's disk"
        );
        Ok(())
    })
}
