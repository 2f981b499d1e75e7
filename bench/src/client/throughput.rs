//! As many bytes as go through, one way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{on_threads, open};
use crate::{Report, Window, Work};

/// What one write gives to the kernel: as iperf3 does.
const CHUNK: usize = 128 * 1024;

/// Bytes are counted by the server, and the time ends when it has said how many they were: what still lies in a buffer
/// somewhere on the way is not throughput.
pub(super) fn run(target: SocketAddr, connections: usize, seconds: Duration) -> Result<Report> {
    let streams: Vec<TcpStream> = (0..connections).map(|_| begin(target)).collect::<Result<_>>()?;
    let window = Window::new(Duration::ZERO, seconds);
    let ended = on_threads(streams, window, |_, stream| send(stream, window.end))?;
    let mut total = 0;
    let mut last = window.end;
    for ended in ended {
        let (bytes, at) = ended?;
        total += bytes;
        last = last.max(at);
    }
    let seconds = (last - window.start).as_secs_f64();
    Ok(Report {
        work: Work::Throughput,
        connections,
        rate: None,
        seconds,
        per_second: total as f64 / seconds,
        total,
        latency: None,
        lag_p99_us: None,
        errors: 0,
        first_error: None,
    })
}

/// A connection whose whole path stands: the server's first byte came.
fn begin(target: SocketAddr) -> Result<TcpStream> {
    let mut stream = open(target).context("cannot connect")?;
    stream
        .read_exact(&mut [0])
        .context("connected, but the sink sent nothing")?;
    Ok(stream)
}

fn send(mut stream: TcpStream, end: Instant) -> Result<(u64, Instant)> {
    let chunk = vec![b'.'; CHUNK];
    let mut sent = 0_u64;
    while Instant::now() < end {
        stream.write_all(&chunk).context("cannot send")?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write).context("cannot end sending")?;
    let mut count = [0; 8];
    stream
        .read_exact(&mut count)
        .context("the sink did not report its number of bytes")?;
    let at = Instant::now();
    let got = u64::from_be_bytes(count);
    ensure!(got == sent, "{sent} bytes were sent, {got} arrived");
    Ok((got, at))
}
