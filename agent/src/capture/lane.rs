//! The order of jobs in the network namespace of one pod.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The jobs of one pod: one at a time, in the order in which their turns were taken. So a delayed job never undoes the
/// result of a later one.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    /// Closed when the last turn ends.
    last: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

/// A place in a [`Lane`]; the next job begins when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

impl Lane {
    /// Takes the next place.
    pub(super) fn turn(&self) -> Turn {
        let (over, last) = oneshot::channel();
        let before = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(last);
        Turn { before, _over: over }
    }

    /// Whether no job runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_mut()
            .is_none_or(|last| last.try_recv() == Err(oneshot::error::TryRecvError::Closed))
    }
}

impl Turn {
    /// Waits until every earlier job has ended.
    pub(super) async fn comes(&mut self) {
        if let Some(before) = &mut self.before {
            // Nothing is ever sent; this ends when the earlier turn is dropped.
            _ = before.await;
        }
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn jobs_run_one_at_a_time_in_the_order_of_their_turns() {
        let lane = Lane::default();
        assert!(lane.is_idle());
        let done = Arc::new(Mutex::new(vec![]));
        let mut jobs = tokio::task::JoinSet::new();
        // The first takes longest, and the last is polled first.
        let turns: Vec<_> = (0..4u64).map(|i| (i, lane.turn())).collect();
        for (i, mut turn) in turns.into_iter().rev() {
            let done = Arc::clone(&done);
            jobs.spawn(async move {
                turn.comes().await;
                tokio::time::sleep(Duration::from_millis(100 - 20 * i)).await;
                done.lock().expect("unpoisoned").push(i);
            });
        }
        assert!(!lane.is_idle());
        jobs.join_all().await;
        assert_eq!(*done.lock().expect("unpoisoned"), [0, 1, 2, 3]);
        assert!(lane.is_idle());
    }
}
