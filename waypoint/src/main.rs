//! `ambit-waypoint`.

use ambit_runtime::{Signals, Workers, start_log};
use ambit_waypoint::{Config, Parts, Waypoint};
use clap::Parser;
use tokio::runtime::Handle;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    // The log is written to its end after all other tasks have ended.
    let _log = start_log(&config.log)?;
    Workers::start("waypoint")?.run(async |data, signals| run(config, data, signals).await)?
}

async fn run(config: Config, data: Handle, mut signals: Signals) -> anyhow::Result<()> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.pod_namespace,
        waypoint = config.name,
        control_plane = config.control.url,
        "waypoint starts"
    );
    let parts = Parts::of(&config, data)?;
    let waypoint = Waypoint::start(config, parts).await?;
    signals.received().await;
    waypoint.stop().await;
    Ok(())
}
