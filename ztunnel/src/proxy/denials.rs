//! Plaintext connections that were denied before a byte of them was read.
//!
//! A client in the mesh whose node has not heard that the pod is captured, or takes identities only, connects in
//! plaintext. Its ztunnel sees a reset, as it may see one of an application that has read all that was said. It asks
//! here which of them it was.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ambit_runtime::{Share, Shares};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long one is remembered. The client asks at once, or when its node has heard of the pod (`skew_timeout`).
const REMEMBERED: Duration = Duration::from_secs(10);
/// How many are in all pods of the node together, shared out by the clients' addresses; what is denied past it is not
/// remembered.
const MOST: usize = 16_384;

/// From where, and to where.
type Ends = (SocketAddr, SocketAddr);

/// Those of the last seconds.
pub(crate) struct Denials {
    shares: Shares<IpAddr>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the time of the last denial.
    known: HashMap<Ends, Instant>,
    by_age: VecDeque<(Instant, Ends, Share<IpAddr>)>,
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            shares: Shares::new(MOST),
            state: Mutex::default(),
        }
    }
}

impl Denials {
    /// Remembers one. To be called before the client sees it.
    pub(super) fn remember(&self, now: Instant, from: SocketAddr, to: SocketAddr) {
        let mut state = self.state.lock();
        state.forget_old(now);
        if let Some(share) = self.shares.take(&from.ip()) {
            state.known.insert((from, to), now);
            state.by_age.push_back((now, (from, to), share));
        }
    }

    /// Whether one was denied just now. It is said once.
    pub(super) fn take(&self, now: Instant, from: SocketAddr, to: SocketAddr) -> bool {
        let mut state = self.state.lock();
        state.forget_old(now);
        state.known.remove(&(from, to)).is_some()
    }

    /// Forgets the one between these ends, as there is another connection now: nobody may take that for denied.
    pub(super) fn withdraw(&self, from: SocketAddr, to: SocketAddr) {
        self.state.lock().known.remove(&(from, to));
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, ends, _)) = self.by_age.front()
            && now.duration_since(*since) >= REMEMBERED
        {
            // There may have been another since.
            if self.known.get(ends) == Some(since) {
                self.known.remove(ends);
            }
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8, port: u16) -> SocketAddr {
        ([10, 9, 0, last], port).into()
    }

    #[test]
    fn denial_is_confirmed_once_and_expires() {
        let (denials, now) = (Denials::default(), Instant::now());
        let server = at(3, 80);
        denials.remember(now, at(2, 40_000), server);
        assert!(!denials.take(now, at(2, 40_001), server));
        assert!(!denials.take(now, at(2, 40_000), at(3, 81)));
        assert!(denials.take(now, at(2, 40_000), server));
        assert!(!denials.take(now, at(2, 40_000), server));
        denials.remember(now, at(2, 40_000), server);
        let now = now + REMEMBERED;
        assert!(!denials.take(now, at(2, 40_000), server));
        assert_eq!(denials.shares.taken(), 0);
    }

    #[test]
    fn the_last_denial_between_two_ends_counts() {
        let (denials, first) = (Denials::default(), Instant::now());
        let ends = (at(2, 40_000), at(3, 80));
        let second = first + REMEMBERED / 2;
        for now in [first, second] {
            denials.remember(now, ends.0, ends.1);
        }
        assert!(denials.take(first + REMEMBERED, ends.0, ends.1));
        for now in [first, second] {
            denials.remember(now + REMEMBERED, ends.0, ends.1);
        }
        assert!(!denials.take(second + REMEMBERED * 2, ends.0, ends.1));
    }

    #[test]
    fn flood_of_one_client_leaves_room() {
        let (denials, now) = (Denials::default(), Instant::now());
        let server = at(3, 80);
        for port in 0..u16::MAX {
            denials.remember(now, at(2, port), server);
        }
        assert_eq!(denials.shares.taken(), MOST / 2);
        denials.remember(now, at(4, 40_000), server);
        assert!(denials.take(now, at(4, 40_000), server));
    }
}
