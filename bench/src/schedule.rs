//! Requests at a fixed rate, whatever becomes of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Window;

/// A rate that some connections share.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Between two requests of one connection.
    interval: Duration,
    connections: usize,
}

impl Rhythm {
    /// This many requests a second, over this many connections.
    ///
    /// # Errors
    /// When that is no rate.
    pub fn new(rate: f64, connections: usize) -> Result<Self> {
        ensure!(rate.is_finite() && rate > 0.0, "--rate {rate} is not a rate");
        let interval = Duration::try_from_secs_f64(connections as f64 / rate)
            .with_context(|| format!("--rate {rate} is not a rate"))?;
        Ok(Self {
            interval,
            connections,
        })
    }

    /// When the requests of the connection with this index are due: the connections take turns.
    pub fn schedule(self, window: Window, index: usize) -> Schedule {
        Schedule {
            next: window.start + self.interval.mul_f64(index as f64 / self.connections as f64),
            interval: self.interval,
        }
    }
}

/// When one connection's requests are due.
#[derive(Debug)]
pub struct Schedule {
    next: Instant,
    interval: Duration,
}

impl Schedule {
    /// The next one's time: in the past, if answers were slow. It does not depend on them.
    pub fn due(&mut self) -> Instant {
        let due = self.next;
        self.next += self.interval;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_ignores_responses_and_connections_take_turns() {
        let window = Window::new(Duration::ZERO, Duration::from_secs(1));
        let rhythm = Rhythm::new(1000.0, 16).unwrap();
        let mut first = rhythm.schedule(window, 0);
        assert_eq!(first.due(), window.start);
        assert_eq!(first.due(), window.start + Duration::from_millis(16));
        assert_eq!(first.due(), window.start + Duration::from_millis(32));
        let second = rhythm.schedule(window, 1).due();
        assert_eq!(second, window.start + Duration::from_millis(1));
    }

    #[test]
    fn invalid_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
            assert!(Rhythm::new(rate, 1).is_err(), "{rate}");
        }
    }
}
