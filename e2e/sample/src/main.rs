//! Small applications that talk all the time, and count what fails: the demonstration and the tests look at them while
//! the mesh changes around them.

mod client;
mod load;
mod server;
mod web;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use ambit_e2e::http::{self, Request};
use anyhow::{Context, Result, ensure};
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
    /// Answer HTTP/1.1 and HTTP/2 with what was asked, and gRPC. Besides: /flaky fails every third time, /slow?ms=N
    /// answers later, a WebSocket gets its messages back, /counts tells what came.
    Web(web::Arguments),
    /// Load a web server over connections that are kept, and count. Idle until told otherwise.
    Load(load::Arguments),
    /// Make one HTTP request, print the response's body, and fail unless the response is 200.
    Get {
        /// `http://HOST:PORT/PATH`.
        url: String,
        /// How long the whole request may take, in milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout: u64,
    },
    /// Make one HTTP request of any method, and print all of the response.
    Request {
        /// GET, DELETE, …
        method: String,
        /// `http://HOST:PORT/PATH`; the path is sent as it is.
        url: String,
        /// `NAME: VALUE`; may be given again.
        #[arg(long)]
        header: Vec<String>,
        /// How long the whole request may take, in milliseconds.
        #[arg(long, default_value_t = 10_000)]
        timeout: u64,
    },
    /// Make a gRPC call of each kind, and print what was seen.
    Grpc {
        /// `HOST:PORT`.
        target: String,
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
        Command::Web(arguments) => runtime()?.block_on(web::run(arguments)),
        Command::Load(arguments) => runtime()?.block_on(load::run(arguments)),
        Command::Get { url, timeout } => {
            let url = http::Url::parse(&url)?;
            let limit = Duration::from_millis(timeout);
            let stream = client::connect(url.authority(), limit)?;
            let body = http::get(stream, &url)?;
            println!("{body}");
            Ok(())
        }
        Command::Request {
            method,
            url,
            header,
            timeout,
        } => {
            let url = http::Url::parse(&url)?;
            let mut request = Request::new(&method, url.path());
            for line in &header {
                let (name, value) = line
                    .split_once(':')
                    .with_context(|| format!("`{line}` is no header"))?;
                request = request.header(name, value.trim());
            }
            let stream = client::connect(url.authority(), Duration::from_millis(timeout))?;
            let answer = request.send(stream, url.authority())?;
            println!("{}\n\n{}", answer.head(), answer.body.trim_end());
            Ok(())
        }
        Command::Grpc { target } => runtime()?.block_on(async {
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{target}"))?;
            let seen = ambit_sample::exercise(channel.connect().await?).await?;
            println!("{seen:#?}");
            ensure!(seen.is_whole(), "something of that is not what was asked for");
            Ok(())
        }),
        Command::Echo { target, timeout } => {
            let mut stream = client::connect(&target, Duration::from_millis(timeout))?;
            let line = client::exchange(&mut stream, "once").with_context(|| target)?;
            println!("{line}");
            Ok(())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")
}
