//! The side that asks and measures.

mod connect;
mod request;
#[cfg(test)]
mod tests;
mod throughput;

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Report, Seen, Window, Work};

/// How long to connect, or to wait for a byte, before it is a failure.
const LIMIT: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt.
const BACKOFF: Duration = Duration::from_millis(10);

/// What to do, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to do.
    pub work: Work,
    /// Where the server's port for this work is: HOST:PORT.
    #[arg(long)]
    pub target: String,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 6.0)]
    pub seconds: f64,
    /// How long to work before that without measuring, in seconds; throughput has no such phase.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Connections at a time, each with a thread.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Requests a second, on a schedule that a slow response does not delay: the latency counts from when a request was
    /// to be sent. Without it, each connection sends the next request as soon as it has the response.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// Does the work and returns what was measured.
pub fn run(options: &Options) -> Result<Report> {
    let warmup = duration("--warmup", options.warmup)?;
    let seconds = duration("--seconds", options.seconds)?;
    ensure!(!seconds.is_zero(), "--seconds is 0: nothing would be measured");
    ensure!(
        options.connections > 0,
        "--connections is 0: nothing would be done"
    );
    ensure!(
        options.rate.is_none() || options.work == Work::Request,
        "--rate is for the work `request` only"
    );
    let target = resolve(&options.target)?;
    match options.work {
        Work::Throughput => throughput::run(target, options.connections, seconds),
        Work::Request => request::run(target, options.connections, warmup, seconds, options.rate),
        Work::Connect => connect::run(target, options.connections, warmup, seconds),
    }
    .with_context(|| format!("target {}", options.target))
}

/// Asks the server's peer port which address it sees.
pub fn seen(target: &str) -> Result<Seen> {
    let mut stream = open(resolve(target)?).with_context(|| format!("target {target}"))?;
    let local = stream.local_addr()?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("target {target} sent nothing"))?;
    let remote = text
        .parse()
        .with_context(|| format!("target {target} sent {text:?}, which is not an address"))?;
    Ok(Seen { local, remote })
}

/// Gives each item a thread, all of which begin at the same time; returns what each came to.
fn on_threads<C: Send, T: Send>(
    items: Vec<C>,
    window: Window,
    work: impl Fn(usize, C) -> T + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let work = &work;
            let started = thread::Builder::new()
                .name(format!("connection-{index}"))
                .spawn_scoped(scope, move || {
                    sleep_until(window.start);
                    work(index, item)
                });
            running.push(started.context("cannot start a thread")?);
        }
        let join =
            |thread: thread::ScopedJoinHandle<'_, T>| thread.join().map_err(|_| anyhow!("a thread panicked"));
        running.into_iter().map(join).collect()
    })
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn resolve(target: &str) -> Result<SocketAddr> {
    let mut addresses = target
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {target}: expected HOST:PORT"))?;
    addresses
        .next()
        .with_context(|| format!("{target} has no address"))
}

fn duration(name: &str, seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{name} {seconds} is not a duration"))
}
