//! `ambit-ztunnel`.

use ambit_runtime::{Signals, run_control, sharing_threads, start_log};
use ambit_ztunnel::{Config, Parts, Ztunnel};
use clap::Parser;
use tokio::runtime::Handle;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    // The log is written to its end after all other tasks have ended.
    let _log = start_log(&config.log)?;
    let connections = sharing_threads("ztunnel")?;
    let data = connections.handle().clone();
    run_control(async |signals| run(config, data, signals).await)?
}

async fn run(config: Config, data: Handle, mut signals: Signals) -> anyhow::Result<()> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = config.revision,
        node = config.pod.node_name,
        control_plane = config.control.url,
        "ztunnel starts"
    );
    let parts = Parts::of(&config, data)?;
    let ztunnel = Ztunnel::start(config, parts).await?;
    signals.received().await;
    ztunnel.stop().await;
    Ok(())
}
