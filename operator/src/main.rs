//! The operator's binary.

mod run;

use std::time::Duration;

use ambit_runtime::{LogFlags, start_log};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};

/// Ambit's operator and control plane.
#[derive(Debug, Parser)]
#[command(name = "ambit-operator", version)]
struct Cli {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane until SIGTERM.
    Serve(run::ServeOptions),
    /// Run the operator until SIGTERM: roll out the data plane, reconcile objects, write statuses.
    Reconcile(Box<run::ReconcileOptions>),
    /// Delete the Mesh, and wait until every pod is released and every node is restored.
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
struct Uninstall {
    /// Seconds to wait.
    #[arg(long, env = "AMBIT_UNINSTALL_TIMEOUT", default_value_t = 280)]
    timeout: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // The log is written to its end after all other tasks have ended.
    let _log = start_log(&cli.log)?;
    // Fails only if one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command {
        Command::Serve(options) => run::serve(options).await,
        Command::Reconcile(options) => run::reconcile(*options, cli.log.format.as_str()).await,
        Command::Uninstall(options) => {
            let client = kube::Client::try_default()
                .await
                .context("no access to a cluster")?;
            let timeout = Duration::from_secs(options.timeout);
            Ok(ambit_operator::reconcile::uninstall(client, timeout).await?)
        }
    }
}
