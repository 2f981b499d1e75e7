//! Addresses where no proxy accepts HBONE.
//!
//! A reset from there is not a denial by a ztunnel: no proxy is asked about it, and the client gets it at once.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_mesh::Workload;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an address is remembered.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How many are remembered, for all pods of the node together. The oldest make room and are asked again.
const MOST: usize = 4096;

/// Those of the last seconds.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<IpAddr, Stranger>,
    by_age: VecDeque<(Instant, IpAddr)>,
}

struct Stranger {
    since: Instant,
    /// The workload that was known at the address.
    workload: Option<Arc<Workload>>,
}

impl Strangers {
    /// Remembers an address, and the workload known there.
    pub(super) fn remember(&self, now: Instant, address: IpAddr, workload: Option<Arc<Workload>>) {
        let mut state = self.0.lock();
        while let Some(&(since, oldest)) = state.by_age.front()
            && (state.by_age.len() >= MOST || now.duration_since(since) >= REMEMBERED)
        {
            // HBONE may have been found there since.
            if state.known.get(&oldest).is_some_and(|known| known.since == since) {
                state.known.remove(&oldest);
            }
            state.by_age.pop_front();
        }
        let stranger = Stranger { since: now, workload };
        state.known.insert(address, stranger);
        state.by_age.push_back((now, address));
    }

    /// Whether the address was found without HBONE recently, and no update about it has arrived since.
    pub(super) fn is_known(&self, now: Instant, address: IpAddr, workload: Option<&Arc<Workload>>) -> bool {
        let state = self.0.lock();
        state.known.get(&address).is_some_and(|stranger| {
            let heard = stranger.workload.as_ref().map(Arc::as_ptr) != workload.map(Arc::as_ptr);
            !heard && now.duration_since(stranger.since) < REMEMBERED
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        let [.., a, b, c] = number.to_be_bytes();
        [10, a, b, c].into()
    }

    fn workload() -> Arc<Workload> {
        let said = ambit_wire::workload::Workload {
            uid: "c//Pod/test/server".into(),
            name: "server".into(),
            namespace: "test".into(),
            ..Default::default()
        };
        Arc::new(Workload::try_from(said).unwrap())
    }

    #[test]
    fn stranger_expires_or_ends_with_an_update() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let (before, after) = (workload(), workload());
        assert!(!strangers.is_known(now, address(1), None));
        strangers.remember(now, address(1), None);
        assert!(strangers.is_known(now, address(1), None));
        assert!(!strangers.is_known(now, address(2), None));
        assert!(!strangers.is_known(now, address(1), Some(&before)));
        strangers.remember(now, address(1), Some(Arc::clone(&before)));
        assert!(strangers.is_known(now, address(1), Some(&before)));
        assert!(!strangers.is_known(now, address(1), Some(&after)));
        assert!(!strangers.is_known(now + REMEMBERED, address(1), Some(&before)));
    }

    #[test]
    fn the_oldest_make_room() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        strangers.remember(now, address(0), None);
        strangers.remember(now, address(0), None);
        for number in 1..MOST {
            strangers.remember(now + Duration::from_secs(1), address(number), None);
        }
        assert!(!strangers.is_known(now, address(0), None));
        assert!((1..MOST).all(|number| strangers.is_known(now, address(number), None)));
        strangers.remember(now + REMEMBERED * 2, address(0), None);
        assert_eq!(strangers.0.lock().known.len(), 1);
    }
}
