//! Namespaces join and leave the mesh while their pods talk.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, Pod, is_ready};
use ambit_e2e::sample::{MARKER, Shop};
use ambit_e2e::wire::{self, Packet};
use ambit_wire::names::{PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, PORT_SEED};
use anyhow::{Result, ensure};

use crate::failures::Frozen;
use ambit_e2e::lab::{LIMIT, Lab};

/// What must not change when a pod joins or leaves the mesh.
fn lives(pods: &[Pod]) -> Vec<(&str, &str, i64, &str)> {
    pods.iter()
        .map(|pod| {
            (
                pod.name.as_str(),
                pod.uid.as_str(),
                pod.restarts,
                pod.started.as_str(),
            )
        })
        .collect()
}

fn ensure_no_failure(shop: &Shop, clients: &[&str]) -> Result<()> {
    for client in clients {
        let stats = shop.stats(client)?;
        ensure!(
            stats.total_failed() == 0,
            "{client} had failures: {:?}",
            stats.failures
        );
        ensure!(stats.total_ok() > 0, "{client} was never answered");
    }
    Ok(())
}

#[test]
fn label_enrols_without_restart() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("enrol", |shop| {
        shop.run_pod(
            "stream",
            "stream",
            &["client", "--stream=server:9090", "--interval=50"],
        )?;
        eventually("an answer to the long connection", LIMIT, || {
            let stats = shop.stats("stream")?;
            ensure!(stats.total_ok() > 0, "{stats:?}");
            Ok(())
        })?;
        let before = shop.pods()?;
        let plain = lab.record(shop, 10)?;
        for port in [8080, 9090, 9091] {
            ensure!(
                wire::in_clear(&plain, MARKER).any(|packet| packet.has_port(port)),
                "nothing in clear to port {port}: the test would prove nothing"
            );
        }

        shop.enroll()?;
        let after = shop.pods()?;
        for pod in &after {
            // That these are seen here is what makes their absence elsewhere mean something.
            ensure_in_mesh(&lab, pod)?;
        }
        let secret = lab.record(shop, 20)?;

        ensure!(lives(&before) == lives(&after), "{before:?} became {after:?}");
        // A connection from before keeps its way until it ends; every other is in the mesh.
        let fresh: Vec<Ipv4Addr> = after
            .iter()
            .filter(|pod| pod.app != "stream")
            .map(|pod| pod.ip)
            .collect();
        let stream = shop.pod_of("stream")?.ip;
        let packets: Vec<Packet> = secret
            .into_iter()
            .filter(|packet| !packet.concerns(stream))
            .collect();
        wire::only_hbone(&packets, &fresh)?;
        ensure_no_failure(shop, &["client-a", "client-b", "stream"])?;
        let stream = shop.stats("stream")?.flows["stream"];
        ensure!(stream.connections == 1, "the long connection was cut: {stream:?}");
        Ok(())
    })
}

#[test]
fn new_pod_joins_before_its_first_packet() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("newcomer", |shop| {
        shop.enroll()?;
        // Plaintext is refused now: a pod whose first connection went past the mesh would fail.
        shop.make_strict()?;
        for attempt in ["first", "second", "third"] {
            let (succeeded, said) = shop.run_to_end(attempt, "newcomer", &["get", "http://server:8080/"])?;
            ensure!(succeeded, "the first request of pod {attempt} failed: {said}");
        }
        for pod in shop.pods_of("server")? {
            ensure!(pod.ready && pod.restarts == 0, "probes did not pass: {pod:?}");
        }
        ensure_no_failure(shop, &["client-a", "client-b"])
    })
}

#[test]
fn removed_label_releases_pods() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("leave", |shop| {
        shop.enroll()?;
        let before = shop.pods()?;
        lab.record(shop, 10)?;

        shop.release()?;
        let packets = lab.record(shop, 10)?;
        for port in [8080, 9090, 9091] {
            ensure!(
                wire::in_clear(&packets, MARKER).any(|packet| packet.has_port(port)),
                "nothing in clear to port {port}"
            );
        }
        let after = shop.pods()?;
        ensure!(lives(&before) == lives(&after), "{before:?} became {after:?}");
        for pod in &after {
            eventually(
                &format!("nothing of Ambit's to be left in {}", pod.name),
                LIMIT,
                || ensure_untouched(&lab, pod),
            )?;
        }
        ensure_no_failure(shop, &["client-a", "client-b"])
    })
}

/// Ztunnels hear of a pod's leaving at different times; here one replica of the control plane, and with it all that
/// hangs on it, is late.
#[test]
fn leaving_strict_fails_no_request() -> Result<()> {
    const LATE: Duration = Duration::from_millis(250);
    const RUSH: [&str; 4] = ["rush-0", "rush-1", "rush-2", "rush-3"];
    let lab = Lab::enter()?;
    lab.with_shop("leavestrict", |shop| {
        for name in RUSH {
            let flows = [
                "client",
                "--http=http://server:8080/",
                "--tcp=server:9090",
                "--banner=server:9091",
                "--interval=20",
            ];
            shop.run_pod(name, "rush", &flows)?;
        }
        let clients = ["client-a", "client-b"].into_iter().chain(RUSH);
        let clients: Vec<&str> = clients.collect();
        eventually("every client to be answered", LIMIT, || ensure_no_failure(shop, &clients))?;
        let say = |spec: &str| {
            let object = format!(
                "apiVersion: ambit.dev/v1alpha1\nkind: AmbientNamespace\nmetadata: {{name: ambient}}\nspec: {spec}\n"
            );
            lab.cluster.apply(shop.namespace(), &object)
        };
        let answered = || clients.iter().try_for_each(|client| shop.wait_more(client, 5).map(drop));
        let replicas = mesh::control_planes(&lab.cluster)?;
        ensure!(replicas.len() == 2, "{replicas:?}");
        for late in &replicas {
            say("{enrollment: Ambient, mtls: {mode: Permissive}}")?;
            shop.wait_captured()?;
            // Strict only when all are in, and what they began before is over: plaintext is refused then.
            answered()?;
            say("{enrollment: Ambient, mtls: {mode: Strict}}")?;
            eventually("Strict to be in force", LIMIT, || {
                let status = shop.ambient()?["status"].clone();
                ensure!(status["mtlsMode"] == "Strict", "{status}");
                Ok(())
            })?;
            answered()?;
            let frozen = Frozen::freeze(&lab, late, "control")?;
            say("{enrollment: None, mtls: {mode: Strict}}")?;
            thread::sleep(LATE);
            drop(frozen);
            shop.wait_released()?;
            answered()?;
        }
        let counts = clients.iter().map(|client| Ok(shop.stats(client)?.total_ok()));
        println!("{} requests answered", counts.sum::<Result<u64>>()?);
        ensure_no_failure(shop, &clients)
    })
}

/// What the machine's own programs see in a pod's network namespace.
struct InPod {
    tables: String,
    listening: String,
    rules: String,
    routes: String,
}

impl InPod {
    fn look(lab: &Lab, pod: &Pod) -> Result<Self> {
        let node = pod.node(&lab.cluster)?;
        let look = |words: &[&str]| -> Result<String> {
            let output = node.in_pod_network(&pod.uid, words)?.output()?;
            // The tool calls a routing table that nothing is in an error.
            ensure!(
                output.status.success() || words.contains(&"100"),
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        Ok(Self {
            tables: look(&["nft", "list", "tables"])?,
            listening: look(&["ss", "--no-header", "--listening", "--tcp", "--numeric"])?,
            rules: look(&["ip", "rule", "list"])?,
            routes: look(&["ip", "route", "show", "table", "100"])?,
        })
    }

    fn listens(&self, port: u16) -> bool {
        self.listening.contains(&format!(":{port} "))
    }
}

const PORTS: [u16; 4] = [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE, PORT_SEED];

/// Fails where a rule, a socket or a route of ours is in a pod's network namespace.
pub(crate) fn ensure_untouched(lab: &Lab, pod: &Pod) -> Result<()> {
    let seen = InPod::look(lab, pod)?;
    ensure!(seen.tables.trim().is_empty(), "nftables: {}", seen.tables);
    ensure!(
        !PORTS.iter().any(|port| seen.listens(*port)),
        "a listener is left: {}",
        seen.listening
    );
    ensure!(
        !seen.rules.contains("0x77"),
        "a routing rule is left: {}",
        seen.rules
    );
    ensure!(seen.routes.trim().is_empty(), "a route is left: {}", seen.routes);
    Ok(())
}

/// Fails unless all of them are there.
pub(crate) fn ensure_in_mesh(lab: &Lab, pod: &Pod) -> Result<()> {
    let seen = InPod::look(lab, pod)?;
    ensure!(
        seen.tables.contains("ambit"),
        "no table of ours in {}: {}",
        pod.name,
        seen.tables
    );
    ensure!(
        PORTS.iter().all(|port| seen.listens(*port)),
        "listeners are missing in {}: {}",
        pod.name,
        seen.listening
    );
    ensure!(
        seen.rules.contains("0x77") && !seen.routes.is_empty(),
        "no route for what is redirected in {}",
        pod.name
    );
    Ok(())
}

#[test]
fn opted_out_pod_is_not_captured() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("optout", |shop| {
        shop.enroll()?;
        let loner = shop.pod_of("client-b")?;
        lab.cluster.run_kubectl(&[
            "label",
            "pod",
            &loner.name,
            "-n",
            shop.namespace(),
            "istio.io/dataplane-mode=none",
        ])?;
        eventually("the pod to be released and counted", LIMIT, || {
            let loner = shop.pod_of("client-b")?;
            ensure!(!loner.captured, "it is captured still");
            let pods = &shop.ambient()?["status"]["pods"];
            ensure!(pods["excluded"] == 1 && pods["captured"] == 3, "{pods}");
            ensure_untouched(&lab, &loner)
        })?;
        // It goes on, in plaintext, as the mesh is permissive.
        shop.wait_more("client-b", 5)?;
        ensure_no_failure(shop, &["client-a", "client-b"])
    })
}

#[test]
fn object_alone_enrols_without_label() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("object", |shop| {
        let manifest = "apiVersion: ambit.dev/v1alpha1\nkind: AmbientNamespace\nmetadata: {name: ambient}\nspec: {}\n";
        lab.cluster.apply(shop.namespace(), manifest)?;
        shop.wait_captured()?;
        let namespace = lab.cluster.get(&["namespace", shop.namespace()])?;
        let labels = &namespace["metadata"]["labels"];
        ensure!(labels["istio.io/dataplane-mode"].is_null(), "{labels}");

        let none = "apiVersion: ambit.dev/v1alpha1\nkind: AmbientNamespace\nmetadata: {name: ambient}\nspec: {enrollment: None}\n";
        lab.cluster.apply(shop.namespace(), none)?;
        for pod in shop.pods()? {
            eventually(&format!("nothing of Ambit's to be left in {}", pod.name), LIMIT, || ensure_untouched(&lab, &pod))?;
        }
        eventually("the object to say that all is as it should be", LIMIT, || is_ready(&shop.ambient()?))?;
        ensure_no_failure(shop, &["client-a", "client-b"])
    })
}
