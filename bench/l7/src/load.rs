//! Requests: each stream sends the next one when it has the response, or all on a schedule.

mod timer;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_bench::l7::PATH;
use ambit_bench::{Report, Rhythm, Schedule, Tally, Window, Work};
use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::http1::{Connection, request};
use crate::way::{self, Way};
use timer::Timer;

/// A response that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt.
const BACKOFF: Duration = Duration::from_millis(10);

/// What to do, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) way: way::Options,
    /// Requests at a time, each on a stream or connection of its own
    #[arg(long, default_value_t = 16)]
    pub(crate) streams: usize,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// How long to work before that without measuring, in seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Requests a second, on a schedule that a slow response does not delay: the latency counts from when a request was
    /// to be sent
    #[arg(long)]
    pub(crate) rate: Option<f64>,
}

/// Opens all streams, sends, and sums up.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let (seconds, warmup) = (duration(options.seconds)?, duration(options.warmup)?);
    ensure!(!seconds.is_zero(), "--seconds is 0: nothing would be measured");
    ensure!(options.streams > 0, "--streams is 0: nothing would be done");
    let rhythm = options
        .rate
        .map(|rate| Rhythm::new(rate, options.streams))
        .transpose()?;
    let way = Arc::new(Way::new(&options.way).await?);
    let mut connections = Vec::new();
    for _ in 0..options.streams {
        connections.push(way.open().await.context("cannot open a stream")?);
    }
    let window = Window::new(warmup, seconds);
    // A task each: one that holds them all would look at every one when any has a response.
    let mut streams = JoinSet::new();
    for (index, connection) in connections.into_iter().enumerate() {
        let schedule = rhythm.map(|rhythm| rhythm.schedule(window, index));
        streams.spawn(stream(Arc::clone(&way), connection, window, schedule));
    }
    let tallies = streams.join_all().await.into_iter().collect::<Result<_>>()?;
    Ok(Tally::report(tallies, window, Work::Request, options.rate))
}

async fn stream(
    way: Arc<Way>,
    first: Connection,
    window: Window,
    mut schedule: Option<Schedule>,
) -> Result<Tally> {
    let timer = Timer::new().context("cannot make a timer")?;
    let request = request("GET", PATH);
    let mut tally = Tally::new(window);
    let mut connection = Some(first);
    timer.until(window.start).await?;
    loop {
        let due = match &mut schedule {
            Some(schedule) => schedule.due(),
            None => Instant::now(),
        };
        if due >= window.end {
            return Ok(tally);
        }
        timer.until(due).await?;
        let begun = Instant::now();
        if begun > window.end + LIMIT {
            tally.failed("a request is far behind its schedule: the rate is too high");
            return Ok(tally);
        }
        match tokio::time::timeout(LIMIT, exchange(&way, &mut connection, &request)).await {
            Ok(Ok(())) => tally.done(due, begun),
            failure => {
                match failure {
                    Ok(Err(error)) => tally.failed(format!("{error:#}")),
                    _ => tally.failed(format!("no answer within {} s", LIMIT.as_secs())),
                }
                connection = None;
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// One request, on a new stream if the last one failed or was ended.
async fn exchange(way: &Way, connection: &mut Option<Connection>, request: &[u8]) -> Result<()> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(way.open().await?),
    };
    let answer = open.exchange(request).await?;
    if answer.last {
        *connection = None;
    }
    ensure!(answer.status == 200, "the response was {}", answer.status);
    Ok(())
}

fn duration(seconds: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(io::Error::other)
}
