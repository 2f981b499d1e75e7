//! The side that answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime};

use ambit_e2e::http;
use ambit_e2e::sample::{MARKER, Seen, millis};
use anyhow::{Context, Result};

/// Listening, not serving yet.
pub(crate) struct Bound {
    http: TcpListener,
    echo: TcpListener,
    banner: TcpListener,
}

/// Opens all three ports.
pub(crate) fn bind(http: SocketAddr, echo: SocketAddr, banner: SocketAddr) -> Result<Bound> {
    let listen = |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
    Ok(Bound {
        http: listen(http)?,
        echo: listen(echo)?,
        banner: listen(banner)?,
    })
}

impl Bound {
    /// Serves until the process is ended.
    pub(crate) fn serve(&self, name: &str) -> Result<()> {
        thread::scope(|scope| {
            scope.spawn(|| accept(&self.http, "http", |stream, peer| serve_http(stream, peer, name)));
            scope.spawn(|| accept(&self.echo, "tcp", |stream, peer| serve_echo(stream, peer, name)));
            scope.spawn(|| {
                accept(&self.banner, "banner", |stream, peer| {
                    serve_banner(stream, peer, name)
                })
            });
        });
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn addresses(&self) -> [SocketAddr; 3] {
        [&self.http, &self.echo, &self.banner].map(|listener| listener.local_addr().unwrap())
    }
}

fn accept(listener: &TcpListener, flow: &str, serve: impl Fn(TcpStream, SocketAddr) -> Result<()> + Sync) {
    thread::scope(|scope| {
        loop {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    eprintln!("cannot accept on {flow}: {error}");
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            let serve = &serve;
            scope.spawn(move || {
                if let Err(error) = serve(stream, peer) {
                    eprintln!("{flow} from {peer}: {error:#}");
                }
            });
        }
    });
}

fn serve_http(stream: TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    let path = http::read_request(&stream)?;
    if path == "/healthz" {
        return http::answer(&stream, "200 OK", "ok\n");
    }
    http::answer(&stream, "200 OK", &note("http", peer, name)?)
}

/// Sends every line back, with what is known of the connection.
fn serve_echo(stream: TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    let seen = note("tcp", peer, name)?;
    let mut writer = &stream;
    for line in BufReader::new(&stream).lines() {
        writeln!(writer, "{} {seen}", line?)?;
    }
    Ok(())
}

/// Speaks first.
fn serve_banner(mut stream: TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    let seen = note("banner", peer, name)?;
    Ok(writeln!(stream, "{seen}")?)
}

/// Logs a connection, and returns what the response says of it.
fn note(flow: &str, peer: SocketAddr, name: &str) -> Result<String> {
    let seen = Seen {
        payload: MARKER.to_owned(),
        time: millis(SystemTime::now()),
        flow: flow.to_owned(),
        peer,
        server: name.to_owned(),
    };
    let line = serde_json::to_string(&seen)?;
    println!("{line}");
    Ok(line)
}
