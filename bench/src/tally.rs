//! What one connection's requests come to, and all of them together.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::report::micros;
use crate::{Histogram, Latency, Report, Work};

/// From now to the common start of all connections: time enough to have started them.
const LEAD: Duration = Duration::from_millis(20);

/// When all connections begin, from when on what they do is measured, and when they stop.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// All begin.
    pub start: Instant,
    /// The warm-up is over.
    pub measured: Instant,
    /// Nothing more is begun.
    pub end: Instant,
}

impl Window {
    /// Begins in a moment.
    pub fn new(warmup: Duration, seconds: Duration) -> Self {
        let start = Instant::now() + LEAD;
        Self {
            start,
            measured: start + warmup,
            end: start + warmup + seconds,
        }
    }
}

/// Requests or connections: how many, how long they took, and how many failed.
pub struct Tally {
    window: Window,
    latency: Histogram,
    lag: Histogram,
    total: u64,
    errors: u64,
    first_error: Option<String>,
    last: Instant,
}

impl Tally {
    /// Nothing yet, in this window.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            latency: Histogram::default(),
            lag: Histogram::default(),
            total: 0,
            errors: 0,
            first_error: None,
            last: window.end,
        }
    }

    /// Counts one that went well, just now: when it was to begin and when it did. What was to begin in the window is
    /// measured, even if it took longer than the window lasts: else the slowest would be missing.
    pub fn done(&mut self, due: Instant, begun: Instant) {
        let now = Instant::now();
        self.total += 1;
        if due >= self.window.measured {
            self.latency.record(now.saturating_duration_since(due));
            self.lag.record(begun.saturating_duration_since(due));
            self.last = self.last.max(now);
        }
    }

    /// Counts one that did not.
    pub fn failed(&mut self, error: impl Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// All connections' tallies in one report.
    pub fn report(tallies: Vec<Self>, window: Window, work: Work, rate: Option<f64>) -> Report {
        let connections = tallies.len();
        let mut all = Self::new(window);
        for tally in tallies {
            all.latency.merge(&tally.latency);
            all.lag.merge(&tally.lag);
            all.total += tally.total;
            all.errors += tally.errors;
            all.first_error = all.first_error.or(tally.first_error);
            all.last = all.last.max(tally.last);
        }
        let seconds = (all.last - window.measured).as_secs_f64();
        Report {
            work,
            connections,
            rate,
            seconds,
            per_second: all.latency.count() as f64 / seconds,
            total: all.total,
            latency: Latency::of(&all.latency),
            lag_p99_us: rate.map(|_| micros(all.lag.quantile(0.99))),
            errors: all.errors,
            first_error: all.first_error,
        }
    }
}
