//! `ambit-bench`: the server and the clients of the benchmarks.

use std::process::ExitCode;

use ambit_bench::client::{self, Options};
use ambit_bench::server::Server;
use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use serde::Serialize;

/// Load for the benchmarks.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer on 5201 (sink of bytes), 5202 (requests), 5203 (connections) and 5204 (who the peer is)
    Server,
    /// Do one work and print what was measured as one line of JSON
    Client(Options),
    /// Print, as one line of JSON, the own address of a connection and the one that the server sees
    Peer {
        /// Where the server's peer port is: HOST:PORT
        #[arg(long)]
        target: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ambit-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Server => {
            let threads = Server::bind()?.start()?;
            eprintln!("listening");
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
        }
        Command::Client(options) => print(&client::run(&options)?),
        Command::Peer { target } => print(&client::seen(&target)?),
    }
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
