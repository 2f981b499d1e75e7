//! The time by which certificates end.

use std::time::{Duration, SystemTime};

/// Longest time between two looks at the clock.
const LOOK: Duration = Duration::from_secs(60);

/// The wall clock. It may be set, and goes on while the machine is suspended: timers do not know of either.
#[derive(Debug, Clone, Copy)]
pub struct WallClock(fn() -> SystemTime);

impl Default for WallClock {
    fn default() -> Self {
        Self(SystemTime::now)
    }
}

impl WallClock {
    /// A clock of one's own, for tests.
    pub fn of(now: fn() -> SystemTime) -> Self {
        Self(now)
    }

    /// What time it is.
    pub fn now(self) -> SystemTime {
        (self.0)()
    }

    /// Resolves at that time; where the clock jumps past it, a minute later at most.
    pub async fn reached(self, time: SystemTime) {
        while let Ok(left) = time.duration_since(self.now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}
