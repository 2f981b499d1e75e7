//! What one measurement came to.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Histogram;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// As many bytes as go through, one way.
    Throughput,
    /// A request, its response, and the next on the same connection.
    Request,
    /// A new connection for one byte there and one back.
    Connect,
}

/// What a client measured; it prints it as one line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was done.
    pub work: Work,
    /// Connections at a time.
    pub connections: usize,
    /// Requests a second that were to be sent, if there was a schedule.
    pub rate: Option<f64>,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// Requests, connections or bytes a second, in that time.
    pub per_second: f64,
    /// All requests, connections or bytes, with those of the warm-up: what the processor time of the proxies was spent
    /// on.
    pub total: u64,
    /// How long requests or connections took; nothing for throughput.
    pub latency: Option<Latency>,
    /// How far behind its schedule the client itself sent, 99 of 100 times less than this, in microseconds.
    pub lag_p99_us: Option<f64>,
    /// Requests or connections that failed.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
}

/// How the two ends of one connection see it. The client's address is the same to both on a direct path; a proxy on the
/// way that keeps the client's IP still has a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The client's address, as the client knows it.
    pub local: SocketAddr,
    /// The client's address, as the server saw it.
    pub remote: SocketAddr,
}

/// Quantiles of a duration, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half took less.
    pub p50_us: f64,
    /// 9 of 10 took less.
    pub p90_us: f64,
    /// 99 of 100 took less.
    pub p99_us: f64,
    /// 999 of 1000 took less.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// The quantiles of what was counted; none if nothing was.
    pub fn of(histogram: &Histogram) -> Option<Self> {
        if histogram.count() == 0 {
            return None;
        }
        let quantile = |share| micros(histogram.quantile(share));
        Some(Self {
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: micros(histogram.max()),
        })
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

/// The middle one of some figures, or the mean of the middle two; none of none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn latencies_are_microseconds() {
        let mut histogram = Histogram::default();
        assert_eq!(Latency::of(&histogram), None);
        histogram.record(Duration::from_micros(250));
        let latency = Latency::of(&histogram).unwrap();
        assert!((latency.p50_us - 250.0).abs() < 2.0, "{latency:?}");
        assert_eq!(latency.max_us, 250.0);
    }

    #[test]
    fn a_report_survives_its_line_of_json() {
        let report = Report {
            work: Work::Request,
            connections: 16,
            rate: Some(1000.0),
            seconds: 6.0,
            per_second: 999.5,
            total: 7000,
            latency: Some(Latency {
                p50_us: 1.0,
                p90_us: 2.0,
                p99_us: 3.0,
                p999_us: 4.0,
                max_us: 5.0,
            }),
            lag_p99_us: Some(0.5),
            errors: 0,
            first_error: None,
        };
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
