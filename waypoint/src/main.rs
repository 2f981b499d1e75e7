//! `ambit-waypoint`.

use ambit_waypoint::{Config, Parts, Waypoint, log_to_stdout};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    // Written to its end when all else has ended.
    let _log = log_to_stdout(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("waypoint")
        .build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.pod_namespace,
        waypoint = config.name,
        control_plane = config.control_plane,
        "waypoint starts"
    );
    let parts = Parts::of(&config)?;
    let waypoint = Waypoint::start(config, parts).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    waypoint.stop().await;
    Ok(())
}
