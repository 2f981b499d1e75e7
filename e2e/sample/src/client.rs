//! The side that asks.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ambit_e2e::http::{self, Url};
use ambit_e2e::sample::{MARKER, Stats};
use anyhow::{Context, Result, bail};

/// What to ask for, and how often. Each kind of traffic runs by itself; only `--stream` keeps its connection.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Arguments {
    /// Ask for this URL, each time on a new connection.
    #[arg(long)]
    http: Option<String>,
    /// Exchange a line with this `HOST:PORT`, each time on a new connection.
    #[arg(long)]
    tcp: Option<String>,
    /// Take the line that this `HOST:PORT` says first, each time on a new connection.
    #[arg(long)]
    banner: Option<String>,
    /// Exchange lines with this `HOST:PORT`, all on one connection; a new one follows a failure.
    #[arg(long)]
    stream: Option<String>,
    /// From one request of a kind to the next, in milliseconds.
    #[arg(long, default_value_t = 100)]
    interval: u64,
    /// When a request counts as failed, in milliseconds.
    #[arg(long, default_value_t = 60_000)]
    timeout: u64,
    /// Where the counts (/stats) and the probe (/healthz) are served.
    #[arg(long, default_value = "0.0.0.0:8081")]
    stats: SocketAddr,
}

/// Asks until the process is ended.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.stats);
    let listener = listener.with_context(|| format!("cannot listen on {}", arguments.stats))?;
    let stats = Mutex::new(Stats::default());
    let limit = Duration::from_millis(arguments.timeout);
    let every = Duration::from_millis(arguments.interval);
    let http = arguments.http.as_deref().map(Url::parse).transpose()?;
    thread::scope(|scope| {
        if let Some(url) = &http {
            scope.spawn(|| {
                repeat("http", &stats, every, || {
                    let stream = connect_counted("http", url.authority(), limit, &stats)?;
                    expect_marker(&http::get(stream, url)?)
                })
            });
        }
        if let Some(target) = &arguments.tcp {
            scope.spawn(|| {
                repeat("tcp", &stats, every, || {
                    let mut stream = connect_counted("tcp", target, limit, &stats)?;
                    exchange(&mut stream, "fresh").map(drop)
                })
            });
        }
        if let Some(target) = &arguments.banner {
            scope.spawn(|| {
                repeat("banner", &stats, every, || {
                    let stream = connect_counted("banner", target, limit, &stats)?;
                    expect_marker(&read_line(&stream)?)
                })
            });
        }
        if let Some(target) = &arguments.stream {
            scope.spawn(|| keep(target, limit, every, &stats));
        }
        scope.spawn(|| print(&stats));
        serve(&listener, &stats);
    });
    Ok(())
}

/// Opens a connection to the first address of `target` that takes it; reads and writes on it end after `limit`.
pub(crate) fn connect(target: &str, limit: Duration) -> Result<TcpStream> {
    let addresses = target
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {target}"))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => {
                last =
                    Some(anyhow::Error::new(error).context(format!("cannot connect to {target} ({address})")))
            }
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("{target} has no address")))
}

/// Sends a line and returns the one that comes back, which must repeat it.
pub(crate) fn exchange(stream: &mut TcpStream, word: &str) -> Result<String> {
    writeln!(stream, "{MARKER} {word}").context("cannot send")?;
    let line = read_line(stream)?;
    if !line.starts_with(&format!("{MARKER} {word}")) {
        bail!("another line came back: {line}");
    }
    Ok(line)
}

fn connect_counted(flow: &str, target: &str, limit: Duration, stats: &Mutex<Stats>) -> Result<TcpStream> {
    let stream = connect(target, limit)?;
    lock(stats).connected(flow);
    Ok(stream)
}

/// Makes a request on a connection of its own, again and again.
fn repeat(flow: &str, stats: &Mutex<Stats>, every: Duration, request: impl Fn() -> Result<()>) {
    loop {
        let (begun, start) = (SystemTime::now(), Instant::now());
        let result = request();
        let mut counted = lock(stats);
        match result {
            Ok(()) => counted.ok(flow, start.elapsed()),
            Err(error) => counted.failed(flow, begun, format!("{error:#}")),
        }
        drop(counted);
        thread::sleep(every.saturating_sub(start.elapsed()));
    }
}

/// Makes requests on one connection for as long as it lasts, then on the next.
fn keep(target: &str, limit: Duration, every: Duration, stats: &Mutex<Stats>) {
    const FLOW: &str = "stream";
    loop {
        let begun = SystemTime::now();
        let result = connect_counted(FLOW, target, limit, stats).and_then(|mut stream| {
            loop {
                let start = Instant::now();
                exchange(&mut stream, "kept")?;
                lock(stats).ok(FLOW, start.elapsed());
                thread::sleep(every.saturating_sub(start.elapsed()));
            }
        });
        let Err::<(), _>(error) = result else { continue };
        lock(stats).failed(FLOW, begun, format!("{error:#}"));
        thread::sleep(every);
    }
}

/// A line of counts every second.
fn print(stats: &Mutex<Stats>) {
    loop {
        thread::sleep(Duration::from_secs(1));
        let flows = lock(stats).flows.clone();
        match serde_json::to_string(&flows) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("cannot print the counts: {error}"),
        }
    }
}

fn serve(listener: &TcpListener, stats: &Mutex<Stats>) {
    thread::scope(|scope| {
        for stream in listener.incoming() {
            scope.spawn(move || {
                let result = stream
                    .map_err(Into::into)
                    .and_then(|stream| serve_one(&stream, stats));
                if let Err(error) = result {
                    eprintln!("cannot serve the counts: {error:#}");
                }
            });
        }
    });
}

fn serve_one(stream: &TcpStream, stats: &Mutex<Stats>) -> Result<()> {
    match http::read_request(stream)?.as_str() {
        "/healthz" => http::answer(stream, "200 OK", "ok\n"),
        "/stats" => {
            let body = serde_json::to_string(&*lock(stats))?;
            http::answer(stream, "200 OK", &body)
        }
        "/reset-slowest" => {
            lock(stats).reset_slowest();
            http::answer(stream, "200 OK", "the slowest response counts from now on\n")
        }
        _ => http::answer(
            stream,
            "404 Not Found",
            "there are /stats, /reset-slowest and /healthz\n",
        ),
    }
}

fn read_line(stream: &TcpStream) -> Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("no answer")?;
    if !line.ends_with('\n') {
        bail!(
            "the connection ended before the response, after {} bytes",
            line.len()
        );
    }
    Ok(line.trim_end().to_owned())
}

fn expect_marker(answer: &str) -> Result<()> {
    if !answer.contains(MARKER) {
        bail!("unexpected response: {answer}");
    }
    Ok(())
}

/// The counts stay right even if another thread panicked between two of them.
fn lock(stats: &Mutex<Stats>) -> std::sync::MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
