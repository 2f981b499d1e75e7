//! The load generator.

mod connection;
mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ambit_e2e::sample::{Failure, LoadStats, Plan, millis};
use anyhow::{Context, Result};
use http::Method;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use connection::{Connection, Lost};
use stats::Shared;

/// What to load. A plan says how much.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The server, as `HOST:PORT`.
    target: String,
    /// Connections to begin with.
    #[arg(long, default_value_t = 0)]
    connections: u32,
    /// What to ask for to begin with.
    #[arg(long, default_value = "/")]
    path: String,
    /// When a request counts as failed, in milliseconds.
    #[arg(long, default_value_t = 30_000)]
    timeout: u64,
    /// Where the counts (/stats), the probe (/healthz) and new plans (/plan/CONNECTIONS/INTERVAL/METHOD/PATH) are
    /// served.
    #[arg(long, default_value = "0.0.0.0:8081")]
    stats: SocketAddr,
}

/// Between a failure and the next request at least: refusals would come by the thousands otherwise.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What all workers share.
struct Load {
    target: String,
    limit: Duration,
    stats: Shared,
}

/// Loads until the process is ended.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(arguments.stats).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", arguments.stats))?;
    let (sender, plan) = watch::channel(Plan::get(arguments.connections, &arguments.path));
    let load = Arc::new(Load {
        target: arguments.target,
        limit: Duration::from_millis(arguments.timeout),
        stats: Shared::default(),
    });
    tokio::select! {
        () = workers(Arc::clone(&load), plan) => Ok(()),
        () = stats::serve(listener, &load.stats, &sender) => Ok(()),
    }
}

/// As many workers as the plan has connections, one a connection.
async fn workers(load: Arc<Load>, mut plan: watch::Receiver<Plan>) {
    let mut workers = JoinSet::new();
    // A worker that is too many ends by itself; it is started again when it is needed again, once it has ended.
    let mut slots: Vec<Arc<Mutex<()>>> = Vec::new();
    loop {
        let wanted = plan.borrow_and_update().connections;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        slots.resize_with(slots.len().max(wanted), Arc::default);
        for (index, slot) in slots.iter().enumerate().take(wanted) {
            if let Ok(turn) = Arc::clone(slot).try_lock_owned() {
                let (load, plan) = (Arc::clone(&load), plan.clone());
                workers.spawn(async move {
                    worker(&load, plan, index).await;
                    drop(turn);
                });
            }
        }
        tokio::select! {
            changed = plan.changed() => if changed.is_err() { return },
            Some(_) = workers.join_next() => {}
        }
    }
}

/// One request after the other on one connection, for as long as the plan has a place for it.
async fn worker(load: &Load, plan: watch::Receiver<Plan>, index: usize) {
    let mut connection = None;
    loop {
        let now = plan.borrow().clone();
        if index >= usize::try_from(now.connections).unwrap_or(usize::MAX) {
            return;
        }
        let begun = Instant::now();
        let answered = load.request(&now, &mut connection).await;
        let every =
            Duration::from_millis(now.interval).max(if answered { Duration::ZERO } else { AFTER_FAILURE });
        let pause = every.saturating_sub(begun.elapsed());
        tokio::time::sleep(pause).await;
    }
}

impl Load {
    /// One request; made once more on another connection if its own ends before a byte of the response, and it is
    /// idempotent. Returns whether it had a good response.
    async fn request(&self, plan: &Plan, connection: &mut Option<Connection>) -> bool {
        let (begun, start) = (SystemTime::now(), Instant::now());
        self.stats.with(|stats| stats.in_flight += 1);
        let whole = async {
            let first = self.attempt(plan, connection).await;
            let Err(Lost { early: true, error }) = first else {
                return first.map_err(|lost| lost.error);
            };
            self.stats.with(|stats| stats.reset(now()));
            if !idempotent(&plan.method) {
                return Err(error);
            }
            self.stats.with(|stats| stats.retried += 1);
            let second = self.attempt(plan, connection).await;
            second.map_err(|lost| lost.error.context(format!("again, after: {error:#}")))
        };
        let result = tokio::time::timeout(self.limit, whole).await;
        let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no response in {:?}", self.limit)));
        if result.is_err() {
            *connection = None;
        }
        let good = self.stats.with(|stats| {
            stats.in_flight -= 1;
            let error = match result {
                Ok((status, _)) if (200..300).contains(&status) => {
                    stats.answered(status);
                    stats.ok(now(), start.elapsed());
                    return true;
                }
                Ok((status, reason)) => {
                    stats.answered(status);
                    format!("{status}: {reason}")
                }
                Err(error) => format!("{error:#}"),
            };
            stats.failed(Failure {
                flow: format!("{} {}", plan.method, plan.path),
                connection_begun: millis(begun),
                seen: now(),
                error,
            });
            false
        });
        if let Some(used) = connection.take() {
            *connection = used.reusable().await;
        }
        good
    }

    /// Status and reason of a response.
    async fn attempt(&self, plan: &Plan, connection: &mut Option<Connection>) -> Result<(u16, String), Lost> {
        let mut used = match connection.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => {
                let made = Connection::open(&self.target).await;
                let made = made.map_err(|error| Lost { early: false, error })?;
                self.stats.with(|stats| stats.connections += 1);
                made
            }
        };
        let answer = used.ask(&self.target, plan).await?;
        *connection = Some(used);
        Ok(answer)
    }
}

fn idempotent(method: &str) -> bool {
    Method::from_bytes(method.as_bytes()).is_ok_and(|method| method.is_idempotent())
}

fn now() -> u64 {
    millis(SystemTime::now())
}

#[cfg(test)]
mod tests;
