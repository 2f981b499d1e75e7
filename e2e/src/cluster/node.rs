//! A node: a machine of its own as far as Kubernetes and its pods can tell, with its own network, processes, mounts and
//! hostname. All its paths are the standard ones, so a DaemonSet with ordinary host paths finds what it expects.

mod boot;
mod config;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::layout::Layout;
use super::{cgroup, network, process};
use crate::shell;

/// A node of a cluster, running or not.
#[derive(Debug, Clone)]
pub struct Node {
    layout: Layout,
    index: usize,
}

impl Node {
    pub(super) fn new(layout: &Layout, index: usize) -> Self {
        Self {
            layout: layout.clone(),
            index,
        }
    }

    /// Its name in Kubernetes: `n1`, `n2`, …
    pub fn name(&self) -> String {
        self.layout.node_name(self.index)
    }

    /// Its address on the wire between the nodes.
    pub fn ip(&self) -> Ipv4Addr {
        self.layout.node_ip(self.index)
    }

    /// The name of its network namespace, for `ip netns` and `ip -n`.
    pub fn netns(&self) -> String {
        self.layout.node_netns(self.index)
    }

    /// The folder on this machine that holds what survives [`Node::kill`]: `ambit` is the node's `/var/lib/ambit`,
    /// `cni` its `/etc/cni/net.d`, and so on.
    pub fn disk(&self) -> PathBuf {
        self.layout.disk(self.index)
    }

    /// The folder on this machine with the manifests of the node's static pods.
    pub fn manifests(&self) -> PathBuf {
        self.layout.manifests(self.index)
    }

    /// The log of one of its programs: `containerd`, `kubelet`, `kube-proxy` or `init`.
    pub fn log(&self, program: &str) -> PathBuf {
        self.layout.log(&self.role(program))
    }

    /// The pid, on this machine, of the node's first process; it is 1 inside.
    pub fn init_pid(&self) -> Result<u32> {
        process::namespace_init(&self.layout.dir, &self.role("init")).with_context(|| {
            format!(
                "{} is not running: start it, or `cargo xtask cluster up`",
                self.name()
            )
        })
    }

    /// Whether the node has a first process.
    pub fn is_running(&self) -> bool {
        self.init_pid().is_ok()
    }

    /// A command that runs inside the node: in its network, mount, pid and hostname namespaces.
    pub fn exec<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init_pid()?))
            .args(["--mount", "--uts", "--net", "--pid", "--"]);
        command.args(arguments.iter().map(AsRef::as_ref));
        Ok(command)
    }

    /// Runs a command inside the node to its end and returns what it printed.
    pub fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String> {
        shell::run(&mut self.exec(arguments)?).with_context(|| format!("on node {}", self.name()))
    }

    /// Gives an image that the node has another name.
    pub fn tag_image(&self, from: &str, to: &str) -> Result<()> {
        self.run(&["ctr", "--namespace=k8s.io", "images", "tag", "--force", from, to])
            .map(drop)
    }

    /// The pid, on this machine, of the process that holds the namespaces of the pod with this UID.
    pub fn pod_pid(&self, pod_uid: &str) -> Result<u32> {
        let filter =
            format!("labels.\"io.kubernetes.pod.uid\"=={pod_uid},labels.\"io.cri-containerd.kind\"==sandbox");
        self.first_pid(&filter)
            .with_context(|| format!("pod {pod_uid} has no running sandbox on {}", self.name()))
    }

    /// The pid, on this machine, of the first process of a container of the pod with this UID.
    pub fn container_pid(&self, pod_uid: &str, container: &str) -> Result<u32> {
        let filter = format!(
            "labels.\"io.kubernetes.pod.uid\"=={pod_uid},labels.\"io.kubernetes.container.name\"=={container}"
        );
        self.first_pid(&filter).with_context(|| {
            format!(
                "pod {pod_uid} has no running container {container} on {}",
                self.name()
            )
        })
    }

    /// A command that runs this machine's own programs (`nft`, `ss`, `ip`, `tcpdump`) in the network of a pod.
    pub fn in_pod_network<S: AsRef<str>>(&self, pod_uid: &str, arguments: &[S]) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pod_pid(pod_uid)?))
            .args(["--net", "--"]);
        command.args(arguments.iter().map(AsRef::as_ref));
        Ok(command)
    }

    /// Loads every image of a docker archive into the node's containerd.
    pub fn load_image(&self, docker_archive: &Path) -> Result<()> {
        let file = fs::File::open(docker_archive)
            .with_context(|| format!("cannot open {}", docker_archive.display()))?;
        let mut import = self.exec(&["ctr", "--namespace=k8s.io", "images", "import", "-"])?;
        let output = import
            .stdin(Stdio::from(file))
            .output()
            .context("cannot start nsenter")?;
        if !output.status.success() {
            bail!(
                "{} does not load {}: {}",
                self.name(),
                docker_archive.display(),
                shell::failure(&import, &output)
            );
        }
        Ok(())
    }

    /// Cuts the node's power: its link goes, then every process of it ends at once, pods and all. What is on its disk
    /// stays.
    pub fn kill(&self) -> Result<()> {
        network::unplug_node(&self.layout, self.index)?;
        if let Ok(init) = self.init_pid() {
            let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).ok();
            self.end_processes()?;
            if let Some(namespace) = namespace {
                self.wait_empty(&namespace)?;
            }
        }
        self.end_processes()?;
        network::remove_node(&self.layout, self.index)?;
        cgroup::remove(&self.layout.node_cgroup(self.index))
    }

    /// Gives the power back and waits until the kubelet serves; Kubernetes then brings the pods up again.
    pub fn start(&self) -> Result<()> {
        if self.is_running() {
            bail!("{} is running already", self.name());
        }
        self.kill()?;
        self.boot()?;
        self.join()
    }

    /// Network, first process, mounts and containerd: all that needs no API server.
    pub(super) fn boot(&self) -> Result<()> {
        network::create_node(&self.layout, self.index)?;
        cgroup::create(&self.layout.node_cgroup(self.index))?;
        config::write(&self.layout, self.index)?;
        boot::first_process(self)?;
        boot::containerd(self)
    }

    /// The kubelet and kube-proxy.
    pub(super) fn join(&self) -> Result<()> {
        boot::kubernetes(self)
    }

    fn role(&self, program: &str) -> String {
        format!("{}.{program}", self.name())
    }

    fn end_processes(&self) -> Result<()> {
        let prefix = self.role("");
        process::kill(&self.layout.dir, |role| role.starts_with(&prefix))
    }

    /// Processes of containers carry no mark of ours, but live in the node's pid namespace or below and end with its
    /// init.
    fn wait_empty(&self, namespace: &Path) -> Result<()> {
        crate::wait::until(
            &format!("all of {} to end", self.name()),
            boot::LIMIT,
            String::new,
            || {
                for entry in fs::read_dir("/proc")? {
                    let link = entry?.path().join("ns/pid");
                    // What cannot be read has ended, or is the system's own.
                    if fs::read_link(&link).is_ok_and(|found| found == namespace) {
                        bail!("{} is still in it", link.display());
                    }
                }
                Ok(())
            },
        )
    }

    fn first_pid(&self, filter: &str) -> Result<u32> {
        let listed = self.run(&[
            "ctr",
            "--namespace=k8s.io",
            "containers",
            "list",
            "--quiet",
            filter,
        ])?;
        for id in listed.lines().map(str::trim).filter(|id| !id.is_empty()) {
            if let Some(pid) = cgroup::processes(&self.layout.node_cgroup(self.index), id)?.first() {
                return Ok(*pid);
            }
        }
        bail!(
            "no process among the containers [{}]",
            listed.trim().replace('\n', ", ")
        )
    }
}
