//! New connections: one byte there, one back, and the end.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{BACKOFF, on_threads, open};
use crate::{Report, Tally, Window, Work};

pub(super) fn run(target: SocketAddr, threads: usize, warmup: Duration, seconds: Duration) -> Result<Report> {
    // One that fails here fails with its reason, at once.
    once(target).context("cannot make a connection")?;
    let window = Window::new(warmup, seconds);
    let tallies = on_threads(vec![(); threads], window, |_, ()| {
        let mut tally = Tally::new(window);
        loop {
            let begun = Instant::now();
            if begun >= window.end {
                return tally;
            }
            match once(target) {
                Ok(()) => tally.done(begun, begun),
                Err(error) => {
                    tally.failed(error);
                    thread::sleep(BACKOFF);
                }
            }
        }
    })?;
    Ok(Tally::report(tallies, window, Work::Connect, None))
}

/// The time of a connection is that until its end has come too: a proxy's work with it is then done.
fn once(target: SocketAddr) -> io::Result<()> {
    let mut stream = open(target)?;
    stream.write_all(b"?")?;
    let mut answer = Vec::with_capacity(2);
    stream.read_to_end(&mut answer)?;
    if answer == b"?" {
        return Ok(());
    }
    let error = format!("the response was {} bytes, not one", answer.len());
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))
}
