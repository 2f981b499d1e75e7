//! Load of this replica beyond its share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the operator's word holds. It sees in the reports after it what came of it.
const HOLDS: Duration = Duration::from_secs(3);

/// Requests in flight that the operator wants at other replicas. Connections that carry so many are ended between two requests: their
/// clients come again, and their ztunnels choose a replica anew.
#[derive(Debug, Default)]
pub(crate) struct Excess {
    /// Whether there is any: nobody takes the lock for nothing.
    any: AtomicBool,
    left: Mutex<Option<Left>>,
}

#[derive(Debug)]
struct Left {
    /// Requests in flight, in thousandths.
    milli: u64,
    until: Instant,
}

impl Excess {
    /// What the operator says now; zero leaves what it said before.
    pub(crate) fn set(&self, milli: u64) {
        if milli > 0 {
            self.set_at(Instant::now(), milli);
        }
    }

    fn set_at(&self, now: Instant, milli: u64) {
        let until = now + HOLDS;
        *self.left.lock() = Some(Left { milli, until });
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether a connection is to end. It `carries` so many requests in flight, in thousandths; `None`: it stays. One that carries more
    /// than is left stays too: elsewhere it would be too much.
    pub(crate) fn take(&self, carries: impl FnOnce() -> Option<u64>) -> bool {
        self.any.load(Ordering::Relaxed) && self.take_at(Instant::now(), carries)
    }

    fn take_at(&self, now: Instant, carries: impl FnOnce() -> Option<u64>) -> bool {
        let mut left = self.left.lock();
        let Some(Left { milli, .. }) = left.as_mut().filter(|left| now < left.until) else {
            *left = None;
            self.any.store(false, Ordering::Relaxed);
            return false;
        };
        let Some(rest) = carries().and_then(|carries| milli.checked_sub(carries)) else {
            return false;
        };
        *milli = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_until_the_excess_is_gone() {
        let excess = Excess::default();
        assert!(!excess.take(|| unreachable!("nobody asks what a connection carries")));
        excess.set(2500);
        assert!(!excess.take(|| None), "it has just come");
        assert!(!excess.take(|| Some(2501)), "it carries more than is to go");
        assert!(excess.take(|| Some(1500)));
        assert!(!excess.take(|| Some(1500)));
        excess.set(0);
        assert!(excess.take(|| Some(1000)), "what was said before holds");
        assert!(!excess.take(|| Some(1)));
    }

    #[test]
    fn the_word_of_a_moment_ago_holds_no_more() {
        let (excess, now) = (Excess::default(), Instant::now());
        excess.set_at(now, 1000);
        assert!(!excess.take_at(now + HOLDS, || Some(1)));
        assert!(!excess.take_at(now, || Some(1)), "it is forgotten");
    }
}
