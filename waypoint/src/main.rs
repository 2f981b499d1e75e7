//! `ambit-waypoint`.

use ambit_runtime::{Shards, Signals, Workers, run_control, start_log};
use ambit_waypoint::{Config, Parts, Waypoint};
use clap::Parser;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    // The log is written to its end after all other tasks have ended.
    let _log = start_log(&config.log)?;
    let workers = Workers::start("waypoint")?;
    run_control(async |signals| run(config, workers.shards(), signals).await)?
}

async fn run(config: Config, workers: Shards, mut signals: Signals) -> anyhow::Result<()> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.pod_namespace,
        waypoint = config.name,
        control_plane = config.control.url,
        "waypoint starts"
    );
    let parts = Parts::of(&config, workers)?;
    let waypoint = Waypoint::start(config, parts).await?;
    signals.received().await;
    waypoint.stop().await;
    Ok(())
}
