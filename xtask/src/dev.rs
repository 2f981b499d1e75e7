//! `cargo xtask dev`: the parts as they are in the work tree, built quickly and brought into a cluster that runs.
//!
//! The Tiltfile calls this, and it is of use without Tilt. Images keep their names, so what chooses them (the chart's values, and the
//! operator for the data plane) stays as it is: the nodes get the new ones, and the pods of the part begin anew.

mod compile;
mod destination;
mod pods;

use std::fs;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;

use crate::images::{self, Image};
use crate::progress::Progress;
use crate::workspace;

pub(crate) use compile::as_wrapper;

use destination::{Brought, Cluster};

/// What to bring where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The parts, all of them by default.
    #[arg(value_parser = PossibleValuesParser::new(PARTS))]
    parts: Vec<String>,
    /// The context of the kubeconfig; by default the current one.
    #[arg(long)]
    context: Option<String>,
    /// Where images are pushed, for the cluster's nodes to pull them from: REGISTRY/operator:dev and so on. Needed for a cluster that is
    /// not of `cargo xtask cluster`, kind or k3d.
    #[arg(long)]
    registry: Option<String>,
}

/// What can be brought, by the names of the images.
const PARTS: [&str; 5] = ["operator", "agent", "ztunnel", "waypoint", "sample"];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let cluster = Cluster::find(arguments.context.as_deref(), arguments.registry.as_deref())?;
    let asked = |image: &&Image| arguments.parts.iter().any(|part| part == image.target);
    let all = |image: &&Image| arguments.parts.is_empty() && PARTS.contains(&image.target);
    let parts: Vec<&Image> = images::IMAGES
        .iter()
        .filter(|image| asked(image) || all(image))
        .collect();
    let binaries = progress.step("build", || compile::binaries(&parts))?;
    let dir = workspace::target().join("images/dev");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let brought = parts.iter().map(|image| {
        let title = format!(
            "bring the image of the {} into {}",
            image.target,
            cluster.context()
        );
        progress.step(&title, || {
            cluster.bring(image, &binaries.join(image.binary), &dir)
        })
    });
    let brought = brought.collect::<Result<Vec<Brought>>>()?;
    let renewed = progress.step("restart pods that run another image", || {
        pods::renew(&cluster, &brought)
    })?;
    if renewed.is_empty() {
        progress.note("none does");
    }
    for pod in renewed {
        progress.note(&pod);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_an_image() {
        for part in PARTS {
            assert!(images::IMAGES.iter().any(|image| image.target == part), "{part}");
        }
    }
}
