//! A request, its response, and the next: as fast as answers come, or on a schedule.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{BACKOFF, LIMIT, on_threads, open, sleep_until};
use crate::{REQUEST_BYTES, RESPONSE_BYTES, Report, Rhythm, Schedule, Tally, Window, Work};

pub(super) fn run(
    target: SocketAddr,
    connections: usize,
    warmup: Duration,
    seconds: Duration,
    rate: Option<f64>,
) -> Result<Report> {
    let rhythm = rate.map(|rate| Rhythm::new(rate, connections)).transpose()?;
    let streams: Vec<Connection> = (0..connections)
        .map(|_| Connection::open(target).context("cannot connect"))
        .collect::<Result<_>>()?;
    let window = Window::new(warmup, seconds);
    let tallies = on_threads(streams, window, |index, connection| {
        let schedule = rhythm.map(|rhythm| rhythm.schedule(window, index));
        requests(connection, target, window, schedule)
    })?;
    Ok(Tally::report(tallies, window, Work::Request, rate))
}

fn requests(first: Connection, target: SocketAddr, window: Window, mut schedule: Option<Schedule>) -> Tally {
    if schedule.is_some() {
        // Else the kernel wakes a sleeper up to 50 µs late, to save power; where it refuses, the lag shows it.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    }
    let mut tally = Tally::new(window);
    let mut connection = Some(first);
    loop {
        let due = match &mut schedule {
            Some(schedule) => schedule.due(),
            None => Instant::now(),
        };
        if due >= window.end {
            return tally;
        }
        sleep_until(due);
        let begun = Instant::now();
        if begun > window.end + LIMIT {
            tally.failed(format!(
                "a request is {} s behind its schedule: the rate is too high",
                (begun - due).as_secs()
            ));
            return tally;
        }
        match exchange(&mut connection, target) {
            Ok(()) => tally.done(due, begun),
            Err(error) => {
                tally.failed(error);
                connection = None;
                thread::sleep(BACKOFF);
            }
        }
    }
}

/// One request, on a new connection if the last one failed.
fn exchange(connection: &mut Option<Connection>, target: SocketAddr) -> io::Result<()> {
    match connection {
        Some(connection) => connection.exchange(),
        None => connection.insert(Connection::open(target)?).exchange(),
    }
}

struct Connection {
    stream: TcpStream,
    request: [u8; REQUEST_BYTES],
    response: Vec<u8>,
}

impl Connection {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let mut request = [b'.'; REQUEST_BYTES];
        request[..4].copy_from_slice(&RESPONSE_BYTES.to_be_bytes());
        Ok(Self {
            stream: open(target)?,
            request,
            response: vec![0; RESPONSE_BYTES as usize],
        })
    }

    fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request)?;
        self.stream.read_exact(&mut self.response)
    }
}
