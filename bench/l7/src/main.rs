//! `ambit-bench-l7`: what the L7 benchmark needs besides the proxies. Each command runs on one thread, so that it can
//! share a core with others without moving between cores.

mod authority;
mod backend;
mod control;
mod grpc;
mod http1;
mod load;
mod probe;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;

use ambit_bench::l7::WAITING;
use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::to_string;

/// Load, backend and control plane of the L7 benchmark.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a certificate authority and the proxy's certificate
    Setup {
        /// The folder for the files
        dir: PathBuf,
    },
    /// Answer HTTP/1.1, plain on port 8080 and in HBONE on port 15008
    Backend(backend::Options),
    /// Be the control plane of one Ambit waypoint
    Control(control::Options),
    /// Send requests and print what was measured as one line of JSON
    Load(load::Options),
    /// Wait until a proxy answers, say so, and find out what it lets through; printed as one line of JSON
    Probe(way::Options),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ambit-bench-l7: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match command {
        Command::Setup { dir } => authority::Authority::create(&dir),
        Command::Backend(options) => runtime.block_on(backend::run(&options)),
        Command::Control(options) => runtime.block_on(control::run(&options)),
        Command::Load(options) => {
            println!("{}", to_string(&runtime.block_on(load::run(&options))?)?);
            Ok(())
        }
        Command::Probe(options) => {
            println!("{}", to_string(&runtime.block_on(probe::run(&options))?)?);
            Ok(())
        }
    }
}

/// Tells the one who started this process that it is about to begin.
fn waiting() {
    println!("{WAITING}");
}
