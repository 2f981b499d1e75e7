//! The operator's binary.

mod run;

use std::num::ParseIntError;
use std::time::Duration;

use ambit_operator::reconcile::{apply_mesh, check, uninstall};
use ambit_runtime::{LogFlags, start_log};
use ambit_wire::names;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use kube::Client;
use serde_json::{Map, Value};

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
    Uninstall(Timeout),
    /// Apply the Mesh with the spec that the environment has.
    ApplyMesh(ApplyMesh),
    /// Wait until the operator, the control plane and the Mesh, where there is one, are ready.
    Check(Check),
}

#[derive(Debug, Args)]
struct Timeout {
    /// Seconds to wait.
    #[arg(
        long = "timeout",
        env = "AMBIT_TIMEOUT",
        default_value = "280",
        value_parser = seconds
    )]
    limit: Duration,
}

#[derive(Debug, Args)]
struct ApplyMesh {
    /// The spec of the Mesh, as a JSON object.
    #[arg(long, env = "AMBIT_MESH_SPEC", default_value = "{}", value_parser = object)]
    spec: Map<String, Value>,
    #[command(flatten)]
    timeout: Timeout,
}

#[derive(Debug, Args)]
struct Check {
    /// The namespace that the operator and the control plane run in.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    #[command(flatten)]
    timeout: Timeout,
}

fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}

fn object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

async fn client() -> anyhow::Result<Client> {
    Client::try_default().await.context("no access to a cluster")
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
        Command::Uninstall(timeout) => Ok(uninstall(client().await?, timeout.limit).await?),
        Command::ApplyMesh(options) => {
            Ok(apply_mesh(client().await?, options.spec, options.timeout.limit).await?)
        }
        Command::Check(options) => {
            Ok(check(client().await?, &options.namespace, options.timeout.limit).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["ambit-operator", "apply-mesh", "--spec", "[]"]);
        assert!(cli.unwrap_err().to_string().contains("--spec"));
        let cli = Cli::try_parse_from([
            "ambit-operator",
            "reconcile",
            "--runtime-socket",
            "containerd.sock",
        ]);
        assert!(cli.unwrap_err().to_string().contains("absolute path"));
    }
}
