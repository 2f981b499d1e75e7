//! What the load generator receives, and what it counts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Failure;

/// Failures and seconds that are kept; of older ones only the counts.
const KEPT: usize = 600;

/// How much to ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Connections, each with one request at a time.
    pub connections: u32,
    /// On each connection, from the begin of one request to that of the next, in milliseconds.
    pub interval: u64,
    /// GET, DELETE, …
    pub method: String,
    /// Path and query.
    pub path: String,
}

impl Plan {
    /// GET over this many connections, one request after the other.
    pub fn get(connections: u32, path: &str) -> Self {
        Self {
            connections,
            interval: 0,
            method: "GET".to_owned(),
            path: path.to_owned(),
        }
    }

    /// The same with a pause, so that a request begins every `interval` milliseconds.
    #[must_use]
    pub fn every(mut self, interval: u64) -> Self {
        self.interval = interval;
        self
    }
}

/// Everything a load generator counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStats {
    /// Requests answered with 2xx.
    pub ok: u64,
    /// Requests answered with anything else, or not at all.
    pub failed: u64,
    /// Connections that ended, or were reset, before a byte of the response came.
    pub resets: u64,
    /// Requests that were made once more on another connection because of that, as HTTP clients do where the method is
    /// idempotent.
    pub retried: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Requests that wait for their response now.
    pub in_flight: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// The slowest good response, in microseconds.
    pub max_micros: u64,
    /// The latest seconds, oldest first.
    pub seconds: VecDeque<Second>,
    /// The latest failures, oldest first.
    pub failures: VecDeque<Failure>,
}

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since 1970.
    pub time: u64,
    /// Requests answered with 2xx.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Connections that ended before a byte of the response.
    pub resets: u64,
}

impl LoadStats {
    /// Counts a response by its code.
    pub fn answered(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Counts a good response; `now` is in milliseconds since 1970.
    pub fn ok(&mut self, now: u64, took: Duration) {
        self.ok += 1;
        self.second(now).ok += 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.max_micros = self.max_micros.max(micros);
    }

    /// Counts a connection that ended before a response.
    pub fn reset(&mut self, now: u64) {
        self.resets += 1;
        self.second(now).resets += 1;
    }

    /// Counts and keeps a failure.
    pub fn failed(&mut self, failure: Failure) {
        self.failed += 1;
        self.second(failure.seen).failed += 1;
        if self.failures.len() == KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }

    fn second(&mut self, now: u64) -> &mut Second {
        let time = now / 1000;
        if self.seconds.back().is_none_or(|last| last.time < time) {
            if self.seconds.len() == KEPT {
                self.seconds.pop_front();
            }
            self.seconds.push_back(Second {
                time,
                ..Second::default()
            });
        }
        // Threads may bring the end of one second after the begin of the next: that counts with the next.
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_sum_to_the_total() {
        let mut stats = LoadStats::default();
        stats.ok(1_000, Duration::from_micros(5));
        stats.ok(1_999, Duration::from_micros(3));
        stats.reset(2_000);
        stats.ok(1_999, Duration::from_micros(1));
        stats.failed(Failure {
            flow: "GET /".into(),
            connection_begun: 2_100,
            seen: 3_500,
            error: "503".into(),
        });
        let seconds: Vec<_> = stats
            .seconds
            .iter()
            .map(|second| (second.time, second.ok, second.failed, second.resets))
            .collect();
        assert_eq!(seconds, [(1, 2, 0, 0), (2, 1, 0, 1), (3, 0, 1, 0)]);
        assert_eq!(
            (stats.ok, stats.failed, stats.resets, stats.max_micros),
            (3, 1, 1, 5)
        );
    }

    #[test]
    fn old_seconds_give_way() {
        let mut stats = LoadStats::default();
        for second in 0..=KEPT as u64 {
            stats.ok(second * 1000, Duration::ZERO);
        }
        assert_eq!((stats.seconds.len(), stats.seconds[0].time), (KEPT, 1));
    }
}
