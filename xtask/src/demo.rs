//! `cargo xtask demo`: a running application joins the mesh, before the reader's eyes. Each claim is measured in this
//! run; if one does not hold, the demo fails.

mod act;
pub(crate) mod check;
mod context;
mod show;
mod waypoint;

use ambit_e2e::cluster::{Cluster, Spec};
use ambit_e2e::mesh;
use ambit_e2e::preflight::{self, Work};
use ambit_e2e::sample::Shop;
use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cluster::how_to_undo;
use crate::progress::Progress;
use crate::{images, tools, workspace};

/// The cluster of the demonstration.
const CLUSTER: &str = "ambit-demo";

/// Options of the demo.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<DemoCommand>,
    /// Keep the cluster afterwards.
    #[arg(long)]
    keep: bool,
    /// Run on a cluster that exists: a context of the kubeconfig. Afterwards the cluster is as it was.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The registry that this cluster pulls images from. The demo pushes them there.
    #[arg(long, requires = "context")]
    registry: Option<String>,
    /// The tag of images that are in the registry already: none are built or pushed.
    #[arg(long, requires = "registry")]
    tag: Option<String>,
    /// Run on the Ambit that is installed in this cluster, and do not change it.
    #[arg(long, requires = "context")]
    use_installed: bool,
}

#[derive(Subcommand)]
enum DemoCommand {
    /// Remove the cluster of an earlier demo.
    Down,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if let Some(DemoCommand::Down) = arguments.command {
        progress.step("remove the cluster", || Cluster::down(CLUSTER))?;
        progress.note(&format!(
            "installed tools stay for the next time; to remove them: {}",
            how_to_undo()?
        ));
        return Ok(());
    }
    if let Some(context) = &arguments.context {
        return context::run(
            &context::Options {
                context,
                registry: arguments.registry.as_deref(),
                tag: arguments.tag.as_deref(),
                use_installed: arguments.use_installed,
                keep: arguments.keep,
            },
            progress,
        );
    }
    preflight::check(&Work {
        cluster: true,
        target: Some(&workspace::target()),
        ..Work::default()
    })?;
    // A demo starts from nothing.
    Cluster::down(CLUSTER)?;
    let result = play(CLUSTER, progress);
    if arguments.keep && Cluster::status(CLUSTER)?.exists {
        show::how_to_go_on(&format!("eval \"$(cargo xtask cluster env --name {CLUSTER})\""));
        show::line("\n   cargo xtask demo down");
    } else {
        progress.step("remove the cluster", || Cluster::down(CLUSTER))?;
        if result.is_ok() {
            show::line("\nTo look around yourself: cargo xtask demo --keep");
        }
    }
    result
}

fn play(name: &str, progress: &Progress) -> Result<()> {
    let note = |message: &str| progress.note(message);
    let archives = tools::for_cluster(progress)?;
    let cluster = progress.step("a Kubernetes cluster of two nodes", || {
        let spec = Spec {
            name: name.to_owned(),
            ..Spec::default()
        };
        Cluster::up(&spec, &note)
    })?;
    images::load(&cluster, &archives, progress)?;
    progress.step("helm install ambit charts/ambit", || {
        mesh::install(&cluster, &note)
    })?;
    let shop = progress.step("a sample application: two clients talk to a Service", || {
        Shop::deploy(&cluster, "shop")
    })?;
    act::play(&cluster, &shop, progress)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::workspace;

    #[test]
    fn the_readme_shows_what_the_demo_prints() {
        let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
        let sources = ["act", "waypoint"]
            .map(|part| read(&format!("xtask/src/demo/{part}.rs")))
            .concat();
        let readme = read("README.md");
        let titles: Vec<&str> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("━━ "))
            .collect();
        assert!(titles.len() > 3, "{titles:?}");
        for title in titles {
            assert!(sources.contains(title), "the demo has no title `{title}`");
        }
    }
}
