//! The counts, and where they are served.

use std::sync::{Mutex, PoisonError};

use ambit_e2e::http;
use ambit_e2e::sample::Plan;
use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::LoadStats;

/// Counts that every worker adds to.
#[derive(Default)]
pub(super) struct Shared(Mutex<LoadStats>);

impl Shared {
    /// The counts stay right even if another thread panicked between two of them.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut LoadStats) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves the counts and takes plans, one caller after the other.
pub(super) async fn serve(listener: TcpListener, stats: &Shared, plans: &watch::Sender<Plan>) {
    loop {
        let result = async {
            let stream = listener.accept().await?.0.into_std()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            // Few and small: a thread of the runtime has the time.
            tokio::task::block_in_place(|| one(&stream, stats, plans))
        };
        if let Err(error) = result.await {
            eprintln!("cannot serve the counts: {error:#}");
            tokio::task::yield_now().await;
        }
    }
}

fn one(stream: &std::net::TcpStream, stats: &Shared, plans: &watch::Sender<Plan>) -> Result<()> {
    match http::read_request(stream)?.as_str() {
        "/healthz" => http::answer(stream, "200 OK", "ok\n"),
        "/stats" => http::answer(
            stream,
            "200 OK",
            &serde_json::to_string(&stats.with(|stats| stats.clone()))?,
        ),
        path => match path.strip_prefix("/plan/").map(plan) {
            Some(Ok(plan)) => {
                plans.send_replace(plan);
                http::answer(stream, "200 OK", "so it will be\n")
            }
            Some(Err(error)) => http::answer(stream, "400 Bad Request", &format!("{error:#}\n")),
            None => http::answer(stream, "404 Not Found", "there are /stats, /plan and /healthz\n"),
        },
    }
}

/// Reads `CONNECTIONS/INTERVAL/METHOD/PATH`.
pub(super) fn plan(text: &str) -> Result<Plan> {
    let mut words = text.splitn(4, '/');
    let mut word = || words.next().context("a plan is CONNECTIONS/INTERVAL/METHOD/PATH");
    Ok(Plan {
        connections: word()?.parse().context("connections are a number")?,
        interval: word()?
            .parse()
            .context("the interval is a number of milliseconds")?,
        method: word()?.to_owned(),
        path: format!("/{}", word()?),
    })
}
