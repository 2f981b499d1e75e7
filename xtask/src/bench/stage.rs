//! Where a benchmark takes place: the same pods in a namespace that is in the mesh and in one that is not, and the
//! ztunnels between them.

use std::time::Duration;

use ambit_bench::{PEER_PORT, Seen};
use ambit_e2e::cluster::Cluster;
use ambit_e2e::eventually;
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::Shop;
use anyhow::{Context, Result, bail, ensure};

use super::proxy::Ztunnel;
use crate::progress::Progress;
use crate::workspace;

const DIRECT: &str = "ambit-bench-direct";
const MESH: &str = "ambit-bench-mesh";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The pods in both namespaces, and the proxies.
pub(super) struct Stage {
    cluster: Cluster,
    /// Not in the mesh.
    pub(super) direct: Pods,
    /// In the mesh.
    pub(super) mesh: Pods,
    /// Where the clients are.
    pub(super) source: Ztunnel,
    /// Where the servers are, but the neighbour.
    pub(super) destination: Ztunnel,
}

/// The pods of one namespace.
pub(super) struct Pods {
    client: Pod,
    /// On its node; it has a quarter of a core.
    flooder: Pod,
    /// On the other node.
    pub(super) server: Pod,
    /// On the client's node.
    pub(super) neighbour: Pod,
}

impl Stage {
    /// Puts the pods there, enrolls the one namespace, and makes sure that connections go the ways they are said to go.
    pub(super) fn set(cluster: &Cluster, progress: &Progress) -> Result<Self> {
        progress.step("client and server pods, in the mesh and out of it", || {
            let nodes = cluster.nodes();
            let [near, far, ..] = nodes.as_slice() else {
                bail!(
                    "cluster {} has one node, and client and server belong on two",
                    cluster.name()
                );
            };
            let direct = deploy(cluster, DIRECT, false)?;
            let mesh = deploy(cluster, MESH, true)?;
            let stage = Self {
                cluster: cluster.clone(),
                direct,
                mesh,
                source: Ztunnel::find(cluster, near)?,
                destination: Ztunnel::find(cluster, far)?,
            };
            stage.check_ways()?;
            Ok(stage)
        })
    }

    /// Removes what a benchmark put on a cluster.
    pub(super) fn strike(cluster: &Cluster) -> Result<()> {
        let delete = ["delete", "namespace", "--ignore-not-found", DIRECT, MESH];
        cluster.run_kubectl(&delete).map(drop)
    }

    /// Runs a command in the client of one of the namespaces; returns its output.
    pub(super) fn client(&self, pods: &Pods, command: &[String]) -> Result<String> {
        self.run(&pods.client, command)
    }

    /// Runs a command in the pod that floods.
    pub(super) fn flooder(&self, pods: &Pods, command: &[String]) -> Result<String> {
        self.run(&pods.flooder, command)
    }

    fn run(&self, pod: &Pod, command: &[String]) -> Result<String> {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.cluster.exec(&pod.namespace, &pod.name, &command)
    }

    /// A proxy's own connection to the server has another port than the client's, so the two ends tell whether there
    /// was one.
    fn check_ways(&self) -> Result<()> {
        for server in [&self.direct.server, &self.direct.neighbour] {
            let seen = self.seen(&self.direct, server)?;
            ensure!(
                seen.local == seen.remote,
                "the direct path is not direct: {} sees {} as {}; is {DIRECT} enrolled, or all traffic masqueraded?",
                server.name,
                seen.local,
                seen.remote
            );
        }
        for server in [&self.mesh.server, &self.mesh.neighbour] {
            let seen = self.seen(&self.mesh, server)?;
            ensure!(
                seen.local != seen.remote,
                "no proxy is in the mesh's path: {} sees {} as the client itself does",
                server.name,
                seen.remote
            );
        }
        Ok(())
    }

    fn seen(&self, pods: &Pods, server: &Pod) -> Result<Seen> {
        let target = format!("--target={}:{PEER_PORT}", server.ip);
        let line = self.client(pods, &["/ambit-bench".into(), "peer".into(), target])?;
        serde_json::from_str(&line).with_context(|| format!("ambit-bench printed {line}"))
    }
}

/// Waits for the pods; in the mesh, also until every ztunnel reaches them over HBONE.
fn deploy(cluster: &Cluster, namespace: &str, enroll: bool) -> Result<Pods> {
    let manifest = workspace::root().join("bench/manifests/l4.yaml");
    let manifest =
        std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let place = Shop::create(cluster, namespace)?;
    cluster.apply(namespace, &manifest)?;
    let pods = eventually(
        &format!("the pods of {namespace} to be Ready"),
        READY_LIMIT,
        || {
            let pods = Pods {
                client: place.pod_of("client")?,
                flooder: place.pod_of("flooder")?,
                server: place.pod_of("server")?,
                neighbour: place.pod_of("neighbour")?,
            };
            for pod in [&pods.client, &pods.flooder, &pods.server, &pods.neighbour] {
                if !pod.ready {
                    bail!("{} is not", pod.name);
                }
            }
            Ok(pods)
        },
    );
    let pods = pods.with_context(|| {
        let pods = cluster.run_kubectl(&["get", "pods", "--namespace", namespace, "--output=wide"]);
        pods.unwrap_or_else(|error| format!("{error:#}"))
    })?;
    if enroll {
        place.enroll()?;
    }
    Ok(pods)
}
