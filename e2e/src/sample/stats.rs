//! What a client of the sample application counts.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Failures that are kept with their circumstances; more are counted only.
const KEPT: usize = 1000;

/// Everything a client counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// By kind of traffic: `http`, `tcp`, `banner`, `stream`.
    pub flows: BTreeMap<String, Flow>,
    /// The latest failures, oldest first.
    pub failures: VecDeque<Failure>,
}

/// One kind of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Requests answered as they should be.
    pub ok: u64,
    /// Requests that were not, from the first good response on.
    pub failed: u64,
    /// Requests before the first good response: the servers may start later than the client.
    pub early: u64,
    /// Connections that were made.
    pub connections: u64,
    /// The slowest response, in microseconds; of all, or since [`Stats::reset_slowest`].
    pub max_micros: u64,
    /// The latest response's, in microseconds.
    pub last_micros: u64,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of traffic.
    pub flow: String,
    /// When its connection was begun, in milliseconds since 1970.
    pub connection_begun: u64,
    /// When the failure was seen, in milliseconds since 1970.
    pub seen: u64,
    /// What went wrong.
    pub error: String,
}

impl Stats {
    /// Counts a connection that was made.
    pub fn connected(&mut self, flow: &str) {
        self.flow(flow).connections += 1;
    }

    /// Counts a good response.
    pub fn ok(&mut self, flow: &str, took: Duration) {
        let flow = self.flow(flow);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        flow.ok += 1;
        flow.last_micros = micros;
        flow.max_micros = flow.max_micros.max(micros);
    }

    /// Counts and keeps a failure; one before the first good response is only counted.
    pub fn failed(&mut self, flow: &str, connection_begun: SystemTime, error: String) {
        let counted = self.flow(flow);
        if counted.ok == 0 {
            counted.early += 1;
            return;
        }
        counted.failed += 1;
        if self.failures.len() == KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back(Failure {
            flow: flow.to_owned(),
            connection_begun: millis(connection_begun),
            seen: millis(SystemTime::now()),
            error,
        });
    }

    /// Forgets the slowest answers; nothing else.
    pub fn reset_slowest(&mut self) {
        self.flows.values_mut().for_each(|flow| flow.max_micros = 0);
    }

    /// Good answers of all kinds.
    pub fn total_ok(&self) -> u64 {
        self.flows.values().map(|flow| flow.ok).sum()
    }

    /// Failures of all kinds.
    pub fn total_failed(&self) -> u64 {
        self.flows.values().map(|flow| flow.failed).sum()
    }

    fn flow(&mut self, name: &str) -> &mut Flow {
        self.flows.entry(name.to_owned()).or_default()
    }
}

/// A moment in milliseconds since 1970, as [`Failure`] has it.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_failures_are_recorded() {
        let mut stats = Stats::default();
        stats.failed("http", UNIX_EPOCH, "nobody is there yet".into());
        stats.connected("http");
        stats.ok("http", Duration::from_micros(900));
        stats.ok("http", Duration::from_micros(300));
        stats.ok("tcp", Duration::from_micros(1));
        stats.failed("tcp", UNIX_EPOCH + Duration::from_secs(1), "reset".into());
        let http = stats.flows["http"];
        assert_eq!(
            (http.connections, http.ok, http.max_micros, http.last_micros),
            (1, 2, 900, 300)
        );
        assert_eq!((http.early, http.failed), (1, 0));
        assert_eq!((stats.total_ok(), stats.total_failed()), (3, 1));
        assert_eq!(
            (
                stats.failures[0].connection_begun,
                stats.failures[0].error.as_str()
            ),
            (1000, "reset")
        );
    }

    #[test]
    fn old_failures_give_way() {
        let mut stats = Stats::default();
        stats.ok("tcp", Duration::ZERO);
        for index in 0..=KEPT {
            stats.failed("tcp", UNIX_EPOCH, index.to_string());
        }
        assert_eq!(
            (stats.failures.len(), stats.failures[0].error.as_str()),
            (KEPT, "1")
        );
        assert_eq!(stats.total_failed(), 1001);
    }
}
