//! `cargo xtask cluster`: a real Kubernetes on this machine.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use ambit_e2e::cluster::{Cluster, Node, Spec};
use ambit_e2e::tools;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::progress::Progress;

/// Cluster commands.
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster; missing tools are installed first
    Up {
        #[command(flatten)]
        which: Which,
        /// Number of nodes
        #[arg(long, default_value_t = 2)]
        nodes: usize,
    },
    /// Remove a cluster with everything that belongs to it
    Down(Which),
    /// Print the names of all clusters, complete or not, and how to remove everything
    List,
    /// Print the state of a cluster; fails unless it is healthy
    Status(Which),
    /// Print shell settings with which kubectl uses the cluster
    Env(Which),
    /// Load the images of a docker archive into every node
    Load {
        #[command(flatten)]
        which: Which,
        /// The archive
        archive: PathBuf,
    },
    /// Cut a node's power: all its processes end at once, its disk stays
    Kill(OneNode),
    /// Restore a node's power
    Start(OneNode),
    /// Run a command inside a node
    Exec {
        #[command(flatten)]
        node: OneNode,
        /// The command
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
    /// Run Helm on a cluster; it is built first if it is missing
    Helm {
        #[command(flatten)]
        which: Which,
        /// Helm's own arguments
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Run kubectl on a cluster
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// kubectl's own arguments
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// The cluster concerned.
#[derive(Args)]
pub(crate) struct Which {
    /// The cluster's name
    #[arg(long, default_value = "ambit")]
    name: String,
}

/// The node concerned.
#[derive(Args)]
pub(crate) struct OneNode {
    #[command(flatten)]
    which: Which,
    /// The node's name: n1, n2, …
    node: String,
}

impl OneNode {
    fn find(&self) -> Result<Node> {
        let nodes = Cluster::attach(&self.which.name)?.nodes();
        let names: Vec<String> = nodes.iter().map(Node::name).collect();
        nodes
            .into_iter()
            .find(|node| node.name() == self.node)
            .with_context(|| {
                format!(
                    "cluster {} has no node {}, only {}",
                    self.which.name,
                    self.node,
                    names.join(", ")
                )
            })
    }
}

/// Runs the command.
pub(crate) fn run(command: ClusterCommand, progress: &Progress) -> Result<()> {
    match command {
        ClusterCommand::Up { which, nodes } => up(which.name, nodes, progress),
        ClusterCommand::Down(which) => {
            Cluster::down(&which.name)?;
            print(&format!(
                "cluster {} is removed; installed tools stay for the next time. To remove them, too: {}",
                which.name,
                how_to_undo()?
            ));
            Ok(())
        }
        ClusterCommand::List => {
            Cluster::names()?.iter().for_each(|name| print(name));
            progress.note(&format!("to remove all: {}", how_to_undo()?));
            Ok(())
        }
        ClusterCommand::Status(which) => {
            let status = Cluster::status(&which.name)?;
            print(&status.to_string());
            if status.healthy() {
                Ok(())
            } else {
                bail!("cluster {} is not healthy", which.name)
            }
        }
        ClusterCommand::Env(which) => {
            let cluster = Cluster::attach(&which.name)?;
            print(&format!("export KUBECONFIG={}", cluster.kubeconfig().display()));
            print(&format!("export PATH={}:$PATH", cluster.programs().display()));
            Ok(())
        }
        ClusterCommand::Load { which, archive } => Cluster::attach(&which.name)?.load_image(&archive),
        ClusterCommand::Kill(node) => node.find()?.kill(),
        ClusterCommand::Start(node) => node.find()?.start(),
        ClusterCommand::Exec { node, arguments } => {
            let error = node.find()?.exec(&arguments)?.exec();
            Err(error).context("cannot start nsenter")
        }
        ClusterCommand::Helm { which, arguments } => {
            let mut helm = Cluster::attach(&which.name)?.helm(&|message| progress.note(message))?;
            Err(helm.args(arguments).exec()).context("cannot start Helm")
        }
        ClusterCommand::Kubectl { which, arguments } => {
            let error = Cluster::attach(&which.name)?.kubectl().args(arguments).exec();
            Err(error).context("cannot start kubectl")
        }
    }
}

/// The commands that remove all clusters and the tools that were installed for them.
pub(crate) fn how_to_undo() -> Result<String> {
    tools::how_to_undo(&Cluster::names()?)
}

fn up(name: String, nodes: usize, progress: &Progress) -> Result<()> {
    let spec = Spec { name, nodes };
    let title = format!("cluster {} of {nodes} nodes", spec.name);
    let cluster = progress.step(&title, || Cluster::up(&spec, &|message| progress.note(message)))?;
    print(&format!("kubeconfig: {}", cluster.kubeconfig().display()));
    Ok(())
}

/// A closed pipe is not an error.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
