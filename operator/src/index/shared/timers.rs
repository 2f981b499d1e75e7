//! The clock of the index.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SharedIndex;
use crate::index::Timer;

/// Timers that run, by their end.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pending: Mutex<BTreeMap<Instant, Vec<Timer>>>,
    changed: Notify,
}

impl Timers {
    pub(super) fn start(&self, timers: Vec<Timer>) {
        if timers.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for timer in timers {
            pending.entry(now + timer.after).or_default().push(timer);
        }
        drop(pending);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Instant> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.keys().next().copied()
    }

    fn due(&self) -> Vec<Timer> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut later = pending.split_off(&Instant::now());
        // What ends at this very moment is due too.
        let now = later
            .first_entry()
            .filter(|e| *e.key() <= Instant::now())
            .map(|e| e.remove());
        std::mem::replace(&mut *pending, later)
            .into_values()
            .chain(now)
            .flatten()
            .collect()
    }
}

impl SharedIndex {
    /// Lets what changes by itself change when its time has come, until `stop`: waypoints stop serving what has left them, nodes hear of pods
    /// that leave, edits of rules are no longer counted. Run it once, beside everything that changes the index.
    pub async fn run_timers(&self, stop: &CancellationToken) {
        loop {
            let wait = async {
                match self.timers.next() {
                    Some(next) => tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = self.timers.changed.notified() => {}
                    },
                    None => self.timers.changed.notified().await,
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let due = self.timers.due();
            if !due.is_empty() {
                self.change(|index| due.iter().for_each(|timer| index.expire(timer)));
            }
        }
    }
}
