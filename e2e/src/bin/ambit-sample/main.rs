//! A small application that talks all the time, over HTTP and plain TCP, and counts what fails: the demonstration and the
//! tests look at it while the mesh changes around it.

mod client;
mod server;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use ambit_e2e::http;
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// A sample application.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer: HTTP, a TCP echo, and a TCP service that speaks first.
    Server {
        /// Where HTTP is served; /healthz is for probes.
        #[arg(long, default_value = "0.0.0.0:8080")]
        http: SocketAddr,
        /// Where lines are sent back.
        #[arg(long, default_value = "0.0.0.0:9090")]
        echo: SocketAddr,
        /// Where every connection gets a line and is closed.
        #[arg(long, default_value = "0.0.0.0:9091")]
        banner: SocketAddr,
        /// What this instance calls itself.
        #[arg(long, env = "POD_NAME", default_value = "server")]
        name: String,
    },
    /// Ask for ever, and count. A failure never ends it.
    Client(client::Arguments),
    /// Make one HTTP request, print the answer's body, and fail unless the answer is 200.
    Get {
        /// `http://HOST:PORT/PATH`.
        url: String,
        /// How long the whole request may take, in milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout: u64,
    },
    /// Open one TCP connection, send a line, print the line that comes back, and fail if none does.
    Echo {
        /// `HOST:PORT`.
        target: String,
        /// How long it may take, in milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout: u64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Server {
            http,
            echo,
            banner,
            name,
        } => server::bind(http, echo, banner)?.serve(&name),
        Command::Client(arguments) => client::run(&arguments),
        Command::Get { url, timeout } => {
            let url = http::Url::parse(&url)?;
            let limit = Duration::from_millis(timeout);
            let stream = client::connect(url.authority(), limit)?;
            let body = http::get(stream, &url)?;
            println!("{body}");
            Ok(())
        }
        Command::Echo { target, timeout } => {
            let mut stream = client::connect(&target, Duration::from_millis(timeout))?;
            let line = client::exchange(&mut stream, "once").with_context(|| target)?;
            println!("{line}");
            Ok(())
        }
    }
}
