//! PINGs that notice a dead peer.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, MissedTickBehavior};

/// Resolves when a PING has not been answered in time, or the connection cannot be pinged any more; calls `tick` before each
/// PING, and ends early when that returns false.
pub(super) async fn ping_until_dead(
    mut pings: PingPong,
    interval: Duration,
    timeout: Duration,
    mut tick: impl FnMut() -> bool,
) -> Ended {
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !tick() {
            return Ended::Told;
        }
        match tokio::time::timeout(timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Ended::Closed,
            Err(_) => return Ended::Unanswered,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Told,
    Closed,
    Unanswered,
}
