//! The node agent. When the container runtime runs it as `ambit-cni`, it is the CNI plugin.

use ambit_agent::config::Config;
use ambit_agent::{cni, node};
use clap::Parser;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

const THREADS: usize = 2;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return cni::run_plugin();
    }
    let config = Config::parse();
    let _log = match ambit_runtime::start_log(&config.log) {
        Ok(log) => log,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), "agent failed");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    ambit_runtime::run_program("agent", THREADS, async |mut signals| {
        let stop = CancellationToken::new();
        let agent = node::run(config, stop.clone());
        tokio::pin!(agent);
        tokio::select! {
            ended = &mut agent => return ended,
            _ = signals.received() => {}
        }
        stop.cancel();
        agent.await
    })?
}
