//! The cluster that all tests of a program share, and what a test leaves for those who look into its failure.

mod definitions;
mod traces;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result};

pub use definitions::Definitions;
pub use traces::{ensure_as_before, original_cni};

use crate::cluster::Cluster;
use crate::mesh::{self, Pod};
use crate::sample::{Shop, Web};
use crate::wire::{Packet, Recording};

/// One test at a time has the cluster.
static TURN: Mutex<()> = Mutex::new(());

/// Whether what is installed is from this run's chart.
static CURRENT: AtomicBool = AtomicBool::new(false);

/// When a test gives up waiting for something in the mesh: many times what anything takes, on a slow machine too.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The cluster with Ambit installed and a Mesh that is Ready.
pub struct Lab {
    /// The cluster, with Ambit on it.
    pub cluster: Cluster,
    since: Instant,
    _turn: MutexGuard<'static, ()>,
}

/// A run has a limit of time: who looks for what takes it finds this in the output of each test.
impl Drop for Lab {
    fn drop(&mut self) {
        println!("the test took {:.1} s", self.since.elapsed().as_secs_f64());
    }
}

impl Lab {
    /// Waits for its turn, then sees to it that Ambit is installed and Ready.
    ///
    /// # Errors
    /// When the cluster is not there, or Ambit cannot be installed.
    pub fn enter() -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = env::var("AMBIT_TEST_CLUSTER").context(
            "AMBIT_TEST_CLUSTER is not set to a cluster: run `cargo xtask test`, or see e2e/tests",
        )?;
        let cluster = Cluster::attach(&name)?.read_directly()?;
        let since = Instant::now();
        let lab = Self {
            cluster,
            since,
            _turn: turn,
        };
        let there = lab
            .cluster
            .get(&["mesh", "default"])
            .and_then(|mesh| mesh::is_ready(&mesh));
        if there.is_err() {
            lab.install()?;
        } else if !CURRENT.load(Ordering::Relaxed) {
            // Installed by an earlier run, maybe from another chart.
            mesh::upgrade(&lab.cluster, &|message| println!("{message}"))?;
        }
        CURRENT.store(true, Ordering::Relaxed);
        Ok(lab)
    }

    /// Installs the chart and the Mesh.
    ///
    /// # Errors
    /// When either is refused, or not Ready in time.
    pub fn install(&self) -> Result<()> {
        traces::remember_nodes(&self.cluster)?;
        mesh::install(&self.cluster, &|message| println!("{message}"))?;
        mesh::apply(&self.cluster, mesh::MESH)
    }

    /// Runs `test` on the sample application in a namespace of its own, and removes that again. Where it fails, what
    /// there is to see is kept, and the error says where.
    ///
    /// # Errors
    /// Those of the test, and where what there is to see was kept.
    pub fn with_shop(&self, namespace: &str, test: impl FnOnce(&Shop) -> Result<()>) -> Result<()> {
        let result = Shop::deploy(&self.cluster, namespace).and_then(|shop| test(&shop));
        self.leave(namespace, result)
    }

    /// Runs `test` on an empty namespace, and removes that again, as [`Lab::with_shop`] does.
    ///
    /// # Errors
    /// Those of the test, and where what there is to see was kept.
    pub fn with_namespace(&self, name: &str, test: impl FnOnce(&Shop) -> Result<()>) -> Result<()> {
        let result = Shop::create(&self.cluster, name).and_then(|shop| test(&shop));
        self.leave(name, result)
    }

    /// The same with the web application, in the mesh, and with the strictest rules for pods that Kubernetes has.
    ///
    /// # Errors
    /// Those of the test, and where what there is to see was kept.
    pub fn with_web(&self, namespace: &str, test: impl FnOnce(&Web) -> Result<()>) -> Result<()> {
        let result = self.web(namespace).and_then(|web| test(&web));
        self.leave(namespace, result)
    }

    /// The web application in a namespace of its own, in the mesh.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn web(&self, namespace: &str) -> Result<Web> {
        let shop = Shop::create(&self.cluster, namespace)?;
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        self.cluster
            .run_kubectl(&["label", "--overwrite", "namespace", namespace, restricted])?;
        let web = Web::deploy(&self.cluster, shop)?;
        web.shop().enroll()?;
        Ok(web)
    }

    fn leave(&self, namespace: &str, result: Result<()>) -> Result<()> {
        let result = result.map_err(|error| match self.keep_evidence(namespace) {
            Ok(kept) => error.context(format!("logs and objects are kept in {}", kept.display())),
            Err(lost) => error.context(format!("no evidence could be saved: {lost:#}")),
        });
        if let Err(error) = &result {
            // At once and beside the test's name: what tests print comes after all of them, and some hundred lines
            // below.
            _ = writeln!(io::stderr(), "in namespace {namespace}: {error:?}");
        }
        let removed = self.cluster.run_kubectl(&[
            "delete",
            "namespace",
            namespace,
            "--ignore-not-found",
            "--wait=false",
        ]);
        match (result, removed) {
            (Err(error), Err(stays)) => {
                Err(error.context(format!("namespace {namespace} was not removed: {stays:#}")))
            }
            (result, removed) => result.and(removed.map(drop)),
        }
    }

    /// Records what goes between the nodes while each client gets a response `answers` times more.
    ///
    /// # Errors
    /// When nothing could be recorded, or a client gets no more responses.
    pub fn record(&self, shop: &Shop, answers: u64) -> Result<Vec<Packet>> {
        let file = folder(shop.namespace())?.join("wire.pcap");
        let recording = Recording::start(&self.cluster, &file)?;
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, answers)?;
        }
        recording.stop()
    }

    /// The ztunnel of a pod's node.
    ///
    /// # Errors
    /// When none runs there.
    pub fn ztunnel_of(&self, pod: &Pod) -> Result<Pod> {
        let all = mesh::ztunnels(&self.cluster)?;
        let here = all.into_iter().find(|ztunnel| ztunnel.node == pod.node);
        here.with_context(|| format!("no ztunnel runs on {}", pod.node))
    }

    fn keep_evidence(&self, namespace: &str) -> Result<PathBuf> {
        let folder = folder(namespace)?;
        fs::create_dir_all(&folder)?;
        let all = "pods,events,ambientnamespaces,waypointpolicies,meshes,daemonsets,deployments,services";
        let objects = self
            .cluster
            .run_kubectl(&["get", all, "--all-namespaces", "--output=yaml"])?;
        fs::write(folder.join("objects.yaml"), objects)?;
        for place in [mesh::NAMESPACE, namespace] {
            // Those too that are on no node or have no address: they may be what went wrong.
            for pod in self.cluster.list(&["pods", "--namespace", place])? {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let node = pod["spec"]["nodeName"].as_str().unwrap_or("unscheduled");
                let log = self
                    .cluster
                    .logs(place, name)
                    .unwrap_or_else(|error| format!("{error:#}"));
                fs::write(folder.join(format!("{name}-{node}.log")), log)?;
            }
        }
        Ok(folder)
    }
}

/// What a test leaves, in `tmp` of the target folder: it outlives the cluster.
fn folder(name: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("this program has no path")?;
    // Cargo puts programs of tests into `<target>/<profile>/deps`.
    let target = program
        .ancestors()
        .nth(3)
        .context("this program is not in a target folder")?;
    Ok(target.join("tmp/mesh").join(name))
}
