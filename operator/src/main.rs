//! The operator's binary.

mod run;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Ambit's operator: rolls the data plane out as the Mesh says, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "ambit-operator", version)]
struct Cli {
    /// What is logged: a level, or levels by module as in `info,ambit_operator=debug`.
    #[arg(long, env = "AMBIT_LOG", default_value = "info", global = true)]
    log: String,
    /// How it is logged; the data plane logs in the same way.
    #[arg(long, env = "AMBIT_LOG_FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve and reconcile until told to stop (the default).
    Run(Box<run::Options>),
    /// Delete the Mesh, and wait until every pod is released and every node is as it was.
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
struct Uninstall {
    /// Seconds to wait.
    #[arg(long, env = "AMBIT_UNINSTALL_TIMEOUT", default_value_t = 280)]
    timeout: u64,
}

/// So that `ambit-operator` without a subcommand reads the same flags and variables.
#[derive(Debug, Parser)]
struct Defaults {
    #[command(flatten)]
    options: run::Options,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {:?}", cli.log))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stdout().is_terminal());
    match cli.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    // Fails only when one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command {
        Some(Command::Run(options)) => run::run(*options, cli.log_format.as_str()).await,
        None => {
            run::run(
                Defaults::parse_from(["ambit-operator"]).options,
                cli.log_format.as_str(),
            )
            .await
        }
        Some(Command::Uninstall(options)) => {
            let client = kube::Client::try_default()
                .await
                .context("no access to a cluster")?;
            let timeout = Duration::from_secs(options.timeout);
            Ok(ambit_operator::reconcile::uninstall(client, timeout).await?)
        }
    }
}
