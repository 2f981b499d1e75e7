//! `cargo xtask demo`: a running application joins the mesh, before the reader's eyes. Each claim is measured in this
//! run; if one does not hold, the demo fails.

mod act;
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
    preflight::check(&Work {
        target: Some(&workspace::target()),
        tests: false,
    })?;
    // A demo starts from nothing.
    Cluster::down(CLUSTER)?;
    let result = play(progress);
    if arguments.keep && Cluster::status(CLUSTER)?.exists {
        show::how_to_go_on(CLUSTER);
    } else {
        progress.step("remove the cluster", || Cluster::down(CLUSTER))?;
        if result.is_ok() {
            show::line("\nTo look around yourself: cargo xtask demo --keep");
        }
    }
    result
}

fn play(progress: &Progress) -> Result<()> {
    let note = |message: &str| progress.note(message);
    let archives = tools::for_cluster(progress)?;
    let cluster = progress.step("a Kubernetes cluster of two nodes", || {
        let spec = Spec {
            name: CLUSTER.to_owned(),
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
