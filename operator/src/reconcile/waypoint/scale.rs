//! The desired number of replicas of a waypoint: pure, with the time as an argument.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::index::ScalingSettings;

/// A difference of less than a tenth between load and capacity changes nothing.
const TOLERANCE: f64 = 0.1;

/// The load of the ready replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Requests in flight, the sum of all reports, in thousandths.
    pub(super) in_flight_milli: u64,
    /// One of them did not report: the load may be higher.
    pub(super) incomplete: bool,
}

/// Desired numbers in the past, as far back as the windows go.
#[derive(Debug)]
pub(super) struct Scaler {
    /// The current number.
    current: u32,
    /// (when, number), oldest first.
    history: VecDeque<(Instant, u32)>,
    /// Before the history, `current` counts as the desired number; the time since when it is known.
    since: Instant,
}

impl Scaler {
    /// Begins with the current replicas, as if they had been desired all the time.
    pub(super) fn new(current: u32, now: Instant) -> Self {
        Self {
            current,
            history: VecDeque::new(),
            since: now,
        }
    }

    /// The number of replicas.
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    /// The number of replicas, within these settings.
    pub(super) fn limited(&mut self, limits: &ScalingSettings) -> u32 {
        self.current = clamp(self.current, limits);
        self.current
    }

    /// The number of replicas for this load. While a ready replica does not report, none is removed.
    pub(super) fn decide(&mut self, demand: Demand, limits: &ScalingSettings, now: Instant) -> u32 {
        let mut called_for = recommended(demand.in_flight_milli, self.current, limits);
        if demand.incomplete {
            called_for = called_for.max(self.current);
        }
        self.history.push_back((now, called_for));
        let longest = limits.up.max(limits.down);
        // The entry that was valid when the window began stays.
        while self.history.len() > 1 && now.duration_since(self.history[1].0) >= longest {
            self.history.pop_front();
        }
        let least = self.extreme(limits.up, now, u32::min);
        let most = self.extreme(limits.down, now, u32::max);
        let desired = if least > self.current {
            least
        } else if most < self.current {
            most
        } else {
            self.current
        };
        self.current = desired;
        self.limited(limits)
    }

    /// The extreme of the desired numbers within `window`.
    fn extreme(&self, window: Duration, now: Instant, pick: fn(u32, u32) -> u32) -> u32 {
        let inside = self
            .history
            .iter()
            .rev()
            .enumerate()
            .take_while(|(newer, (at, _))| *newer == 0 || now.duration_since(*at) < window)
            .map(|(_, (_, called_for))| *called_for);
        let extreme = inside.reduce(pick).unwrap_or(self.current);
        if now.duration_since(self.since) < window {
            pick(extreme, self.current)
        } else {
            extreme
        }
    }
}

/// The number of replicas for this load alone.
fn recommended(in_flight_milli: u64, current: u32, limits: &ScalingSettings) -> u32 {
    let target = f64::from(limits.target.max(1)) * 1000.0;
    #[expect(
        clippy::cast_precision_loss,
        reason = "more than 2^53 thousandths are not in flight"
    )]
    let replicas = in_flight_milli as f64 / target;
    let ratio = replicas / f64::from(current.max(1));
    let desired = if (ratio - 1.0).abs() <= TOLERANCE {
        current
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of a float saturates, and it is not negative"
        )]
        let whole = replicas.ceil() as u32;
        whole
    };
    clamp(desired, limits)
}

fn clamp(replicas: u32, limits: &ScalingSettings) -> u32 {
    replicas.clamp(limits.min, limits.max.max(limits.min))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ScalingSettings = ScalingSettings {
        min: 1,
        max: 5,
        target: 10,
        up: Duration::ZERO,
        down: Duration::from_secs(60),
    };

    /// One decision a second, with these requests in flight; returns the last one.
    fn run(
        scaler: &mut Scaler,
        now: &mut Instant,
        limits: &ScalingSettings,
        seconds: u32,
        in_flight: Option<u64>,
    ) -> u32 {
        let mut last = 0;
        for _ in 0..seconds {
            *now += Duration::from_secs(1);
            let demand = Demand {
                in_flight_milli: in_flight.unwrap_or_default() * 1000,
                incomplete: in_flight.is_none(),
            };
            last = scaler.decide(demand, limits, *now);
        }
        last
    }

    fn at(current: u32) -> (Scaler, Instant) {
        let now = Instant::now();
        (Scaler::new(current, now), now)
    }

    #[tokio::test]
    async fn replicas_follow_a_step_at_once_and_fall_after_the_window() {
        let (mut scaler, mut now) = at(1);
        let mut load = |seconds, n| run(&mut scaler, &mut now, &LIMITS, seconds, Some(n));
        assert_eq!(load(10, 3), 1);
        assert_eq!(load(1, 30), 3);
        assert_eq!(load(1, 300), 5, "not above the most");
        assert_eq!(load(59, 3), 5, "not before the window is over");
        assert_eq!(load(2, 3), 1);
    }

    #[tokio::test]
    async fn peak_within_the_window_keeps_replicas() {
        let (mut scaler, mut now) = at(4);
        let mut load = |seconds, n| run(&mut scaler, &mut now, &LIMITS, seconds, Some(n));
        assert_eq!(load(50, 3), 4);
        assert_eq!(load(1, 35), 4);
        assert_eq!(load(59, 3), 4);
        assert_eq!(load(2, 3), 1);
    }

    #[tokio::test]
    async fn new_leader_waits_a_whole_window() {
        let (mut scaler, mut now) = at(3);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 59, Some(0)), 3);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 3, Some(0)), 1);
    }

    #[tokio::test]
    async fn a_missing_report_removes_nothing() {
        let (mut scaler, mut now) = at(3);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 500, None), 3);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 59, Some(0)), 3);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 3, Some(0)), 1);
    }

    #[tokio::test]
    async fn incomplete_reports_still_add_replicas() {
        let (mut scaler, now) = at(1);
        let demand = Demand {
            in_flight_milli: 35_000,
            incomplete: true,
        };
        assert_eq!(scaler.decide(demand, &LIMITS, now), 4);
    }

    #[tokio::test]
    async fn scale_up_window_waits_for_lasting_load() {
        let limits = ScalingSettings {
            up: Duration::from_secs(5),
            ..LIMITS
        };
        let (mut scaler, mut now) = at(1);
        let mut load = |seconds, n| run(&mut scaler, &mut now, &limits, seconds, Some(n));
        assert_eq!(load(20, 3), 1);
        assert_eq!(load(3, 40), 1);
        assert_eq!(load(1, 3), 1);
        assert_eq!(load(4, 40), 1);
        assert_eq!(load(2, 40), 4);
    }

    #[tokio::test]
    async fn small_differences_change_nothing() {
        let (mut scaler, mut now) = at(2);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 10, Some(21)), 2);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 100, Some(19)), 2);
        assert_eq!(run(&mut scaler, &mut now, &LIMITS, 1, Some(23)), 3);
    }

    #[tokio::test]
    async fn new_limits_hold_at_once() {
        let (mut scaler, mut now) = at(4);
        let fewer = ScalingSettings { max: 2, ..LIMITS };
        let more = ScalingSettings { min: 3, ..LIMITS };
        assert_eq!(run(&mut scaler, &mut now, &fewer, 1, Some(100)), 2);
        assert_eq!(run(&mut scaler, &mut now, &more, 1, Some(0)), 3);
    }
}
