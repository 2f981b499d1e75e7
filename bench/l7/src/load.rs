//! Requests: each stream sends the next one when it has the response, or all on a schedule.

mod timer;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_bench::l7::{PATH, POST_BYTES};
use ambit_bench::{Report, Rhythm, Schedule, Tally, Window, Work};
use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::grpc::Channel;
use crate::http1::{Connection, post, request};
use crate::way::{self, Way};
use timer::Timer;

/// A response that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt.
const BACKOFF: Duration = Duration::from_millis(10);

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// GET of HTTP/1.1
    Get,
    /// POST of HTTP/1.1, with a body of 16 KiB
    Post,
    /// gRPC: all calls on one HTTP/2 connection
    Grpc,
}

/// What to do, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) way: way::Options,
    /// Requests at a time, each on a stream or connection of its own
    #[arg(long, default_value_t = 16)]
    pub(crate) streams: usize,
    /// What they are
    #[arg(long, value_enum, default_value_t = Shape::Get)]
    pub(crate) shape: Shape,
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
    let mut clients = Vec::new();
    for _ in 0..options.streams {
        let last = clients.last();
        let client = Client::open(options.shape, &way, last).await;
        clients.push(client.context("cannot open a stream")?);
    }
    let window = Window::new(warmup, seconds);
    // A task each: one that holds them all would look at every one when any has a response.
    let mut streams = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let schedule = rhythm.map(|rhythm| rhythm.schedule(window, index));
        streams.spawn(stream(client, window, schedule));
    }
    let tallies = streams.join_all().await.into_iter().collect::<Result<_>>()?;
    Ok(Tally::report(tallies, window, Work::Request, options.rate))
}

async fn stream(mut client: Client, window: Window, mut schedule: Option<Schedule>) -> Result<Tally> {
    let timer = Timer::new().context("cannot make a timer")?;
    let mut tally = Tally::new(window);
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
        match tokio::time::timeout(LIMIT, client.exchange()).await {
            Ok(Ok(())) => tally.done(due, begun),
            failure => {
                match failure {
                    Ok(Err(error)) => tally.failed(format!("{error:#}")),
                    _ => tally.failed(format!("no answer within {} s", LIMIT.as_secs())),
                }
                client.reset();
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

/// Sends one request at a time.
enum Client {
    Http1 {
        way: Arc<Way>,
        connection: Option<Connection>,
        request: Vec<u8>,
    },
    Grpc(Channel),
}

impl Client {
    /// The next one, after `last`.
    async fn open(shape: Shape, way: &Arc<Way>, last: Option<&Self>) -> Result<Self> {
        let request = match (shape, last) {
            (Shape::Grpc, Some(Self::Grpc(channel))) => return Ok(Self::Grpc(channel.clone())),
            (Shape::Grpc, _) => return Ok(Self::Grpc(Channel::open(way.io().await?).await?)),
            (Shape::Get, _) => request("GET", PATH),
            (Shape::Post, _) => post(PATH, POST_BYTES),
        };
        Ok(Self::Http1 {
            connection: Some(way.open().await?),
            way: Arc::clone(way),
            request,
        })
    }

    /// One request, of HTTP/1.1 on a new stream if the last one failed or was ended.
    async fn exchange(&mut self) -> Result<()> {
        let (way, connection, request) = match self {
            Self::Grpc(channel) => return channel.call().await,
            Self::Http1 {
                way,
                connection,
                request,
            } => (way, connection, request),
        };
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

    /// After a failure.
    fn reset(&mut self) {
        if let Self::Http1 { connection, .. } = self {
            *connection = None;
        }
    }
}

fn duration(seconds: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(io::Error::other)
}
