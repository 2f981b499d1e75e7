//! A cluster of upstream Kubernetes on this machine: made, found again, asked about, and taken away without a trace.
//!
//! All that a cluster consists of carries its name or its slot, so several stand side by side, and its state lies in one folder
//! (`~/.cache/ambit/clusters/NAME`: logs, keys, etcd, the nodes' disks). Nothing depends on the process that made it.

mod audit;
mod cgroup;
mod context;
mod control_plane;
mod dns;
mod layout;
mod network;
mod node;
mod pki;
mod process;
mod state;
mod status;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::kube::Reader;
use crate::tools::{self, IMAGES};
use crate::{preflight, wait};

pub use audit::{Audit, Write};
pub use layout::Spec;
pub use node::Node;
pub(crate) use process::Started;
pub use status::{NodeStatus, Status};

use layout::Layout;

const READY_LIMIT: Duration = Duration::from_secs(180);

/// A cluster that was made, by this process or by an earlier one.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// None of a cluster that others run: see [`Cluster::of_context`].
    layout: Option<Layout>,
    access: Access,
    images: Images,
    reader: Option<Arc<Reader>>,
}

/// How a cluster is spoken to.
#[derive(Debug, Clone)]
struct Access {
    name: String,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// The context of the kubeconfig, where it is not the current one.
    context: Option<String>,
    /// The folder of what is kept for it.
    dir: PathBuf,
}

/// Where the nodes have the images from that `cargo xtask images` makes.
#[derive(Debug, Clone)]
struct Images {
    registry: String,
    tag: String,
}

impl Cluster {
    /// Makes the cluster, once what it takes is installed. A healthy one is left as it is; what is left of a broken one, or of a
    /// run that was killed half-way, is removed first.
    pub fn up(spec: &Spec, progress: &dyn Fn(&str)) -> Result<Self> {
        spec.validate()?;
        preflight::check(&preflight::Work {
            cluster: true,
            ..preflight::Work::default()
        })?;
        tools::ensure_packages(progress)?;
        let programs = tools::kubernetes(progress)?;
        let _lock = state::lock(&spec.name)?;
        if let Some(layout) = state::load(&spec.name)? {
            let cluster = Self::of(layout);
            if cluster.inspect().healthy() {
                let nodes = cluster.nodes().len();
                if nodes != spec.nodes {
                    bail!(
                        "cluster {} is up with {nodes} nodes, not {}: take it down first",
                        spec.name,
                        spec.nodes
                    );
                }
                progress(&format!("cluster {} is up already", spec.name));
                return Ok(cluster);
            }
            progress(&format!("cluster {} is incomplete: removing it", spec.name));
        }
        state::remove(&spec.name)?;
        let cluster = Self::of(state::create(spec, programs.dir())?);
        cluster.make(progress).with_context(|| {
            format!(
                "cluster {} did not come up; its logs are in {}",
                spec.name,
                cluster.dir().join("log").display()
            )
        })?;
        Ok(cluster)
    }

    /// The cluster of this name, which must have been made.
    pub fn attach(name: &str) -> Result<Self> {
        layout::validate_name(name)?;
        state::require_root()?;
        let layout = state::load(name)?;
        let layout = layout.with_context(|| {
            format!("cluster {name} does not exist: run `cargo xtask cluster up --name {name}`")
        })?;
        Ok(Self::of(layout))
    }

    /// Removes the cluster and all that belongs to it. It is no error if there is none.
    pub fn down(name: &str) -> Result<()> {
        layout::validate_name(name)?;
        state::require_root()?;
        let _lock = state::lock(name)?;
        state::remove(name)
    }

    /// What there is of a cluster, and in which state.
    pub fn status(name: &str) -> Result<Status> {
        layout::validate_name(name)?;
        state::require_root()?;
        Ok(match state::load(name)? {
            Some(layout) => Self::of(layout).inspect(),
            None => Status::absent(name),
        })
    }

    /// The names of all clusters of this user, whole or not.
    pub fn names() -> Result<Vec<String>> {
        state::names()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.access.name
    }

    /// The folder of its state: `log` in it holds every program's log.
    pub fn dir(&self) -> &Path {
        &self.access.dir
    }

    /// The folder of the programs it was made with; `kubectl` is among them.
    pub fn programs(&self) -> &Path {
        self.access.kubectl.parent().unwrap_or(Path::new("/"))
    }

    /// The administrator's kubeconfig. It works from this machine.
    pub fn kubeconfig(&self) -> &Path {
        &self.access.kubeconfig
    }

    /// Whether its nodes are on this machine, where they can be looked into.
    pub fn is_here(&self) -> bool {
        self.layout.is_some()
    }

    /// The reference of an image of ours, as its nodes get it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.images.registry, self.images.tag)
    }

    /// The same cluster with images from another place.
    #[must_use]
    pub fn with_images(mut self, registry: &str, tag: &str) -> Self {
        self.images = Images {
            registry: registry.to_owned(),
            tag: tag.to_owned(),
        };
        self
    }

    /// Values of the chart that say where its images are from.
    pub(crate) fn image_values(&self) -> [String; 2] {
        let Images { registry, tag } = &self.images;
        [format!("image.registry={registry}"), format!("image.tag={tag}")]
    }

    fn here(&self) -> Result<&Layout> {
        let name = self.name();
        self.layout
            .as_ref()
            .with_context(|| format!("the nodes of {name} are not on this machine"))
    }

    /// From now on looks at objects need no program. Something listens on the loopback until this cluster's last copy is dropped.
    ///
    /// # Errors
    /// When `kubectl proxy` does not start.
    pub fn read_directly(mut self) -> Result<Self> {
        self.reader = Some(Arc::new(Reader::start(&self)?));
        Ok(self)
    }

    pub(crate) fn reader(&self) -> Option<&Reader> {
        self.reader.as_deref()
    }

    /// kubectl, as administrator of this cluster.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.access.kubectl);
        command.env("KUBECONFIG", &self.access.kubeconfig);
        command.args(self.access.context.iter().map(|name| format!("--context={name}")));
        command
    }

    /// Helm, as administrator of this cluster, with caches of the cluster's own. It is built first if it never was.
    pub fn helm(&self, progress: &dyn Fn(&str)) -> Result<Command> {
        let program = match &self.layout {
            None if tools::present("helm") => PathBuf::from("helm"),
            _ => tools::helm(progress)?,
        };
        let mut command = Command::new(program);
        let home = self.dir().join("helm");
        if let Some(context) = &self.access.context {
            command.env("HELM_KUBECONTEXT", context);
        }
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HELM_CACHE_HOME", home.join("cache"));
        command
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"));
        Ok(command)
    }

    /// Loads every image of a docker archive into every node.
    pub fn load_image(&self, docker_archive: &Path) -> Result<()> {
        self.on_every_node(|node| node.load_image(docker_archive))
    }

    /// What is written to the API server from now on.
    ///
    /// # Errors
    /// When the API server keeps no audit log.
    pub fn audit(&self) -> Result<Audit> {
        Audit::begin(self.here()?)
    }

    /// Its nodes, in order; none of a cluster whose nodes are not on this machine.
    pub fn nodes(&self) -> Vec<Node> {
        let of = |layout: &Layout| (1..=layout.nodes).map(|index| Node::new(layout, index)).collect();
        self.layout.as_ref().map_or_else(Vec::new, of)
    }

    /// The network namespace of the control plane. The bridge `wire` in it carries all traffic between the nodes, each of which
    /// is plugged in by an interface of its name.
    ///
    /// # Errors
    /// When its nodes are not on this machine.
    pub fn wire_netns(&self) -> Result<String> {
        self.here().map(Layout::control_plane_netns)
    }

    /// Starts a program beside the control plane: in its network namespace, so that its ports are its own. Its log is in `log` of the
    /// cluster's folder, under the name of its role. It ends with the cluster, or by [`Cluster::end_beside`].
    pub(crate) fn start_beside(&self, role: &str, program: &[String]) -> Result<Started> {
        let layout = self.here()?;
        let mut words = network::within(&layout.control_plane_netns());
        words.extend_from_slice(program);
        process::spawn(&layout.dir, role, &layout.log(role), &words)
    }

    /// Ends the programs of these roles, of an earlier run too, and waits until they are gone.
    pub(crate) fn end_beside(&self, roles: &[&str]) -> Result<()> {
        process::kill(&self.here()?.dir, |role| roles.contains(&role))
    }

    fn of(layout: Layout) -> Self {
        Self {
            access: Access {
                name: layout.name.clone(),
                kubectl: layout.program("kubectl"),
                kubeconfig: layout.kubeconfig("admin"),
                context: None,
                dir: layout.dir.clone(),
            },
            layout: Some(layout),
            images: Images::default(),
            reader: None,
        }
    }

    fn make(&self, progress: &dyn Fn(&str)) -> Result<()> {
        let layout = self.here()?;
        progress(&format!(
            "starting the control plane of {} on {}",
            layout.name,
            layout.server()
        ));
        pki::create(layout)?;
        audit::create(layout)?;
        network::create_wire(layout)?;
        let started = control_plane::start(layout)?;
        progress(&format!("booting {} nodes", layout.nodes));
        self.on_every_node(|node| {
            node.boot()?;
            IMAGES
                .iter()
                .try_for_each(|image| node.load_image(&layout.program(image)))
        })?;
        control_plane::wait_ready(layout, &started)?;
        control_plane::start_controllers(layout)?;
        progress("the API server is ready; the nodes join");
        self.on_every_node(Node::join)?;
        dns::apply(layout)?;
        self.wait_nodes_ready()?;
        progress("all nodes are ready; waiting for the cluster's DNS");
        dns::wait_answer(layout)?;
        state::complete(layout)?;
        progress(&format!("cluster {} is up", layout.name));
        Ok(())
    }

    fn wait_nodes_ready(&self) -> Result<()> {
        let logs = self.dir().join("log");
        wait::until(
            "every node to be Ready",
            READY_LIMIT,
            || format!("see {}", logs.display()),
            || {
                let status = self.inspect();
                if status.ready() { Ok(()) } else { bail!("{status}") }
            },
        )
    }

    /// Does the same on all nodes at once; every failure is reported.
    fn on_every_node(&self, work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        let nodes = self.nodes();
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let running: Vec<_> = nodes.iter().map(|node| scope.spawn(|| work(node))).collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
                .collect()
        });
        let failed = nodes
            .iter()
            .zip(results)
            .filter_map(|(node, result)| Some((node.name(), result.err()?)));
        let failed: Vec<String> = failed.map(|(name, error)| format!("{name}: {error:#}")).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            bail!("{}", failed.join("; "))
        }
    }
}
