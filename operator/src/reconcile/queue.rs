//! Queue of keys to reconcile: each key runs once at a time, and after a failure waits for a growing pause of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A key of the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// The Mesh.
    Mesh,
    /// GatewayClasses and XMeshes.
    Classes,
    /// The waypoints, the policies and the AmbientNamespace of a namespace.
    Namespace(String),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeMap<Work, Instant>,
    running: BTreeSet<Work>,
    /// Changed while it was running.
    urged: BTreeSet<Work>,
    /// Number of failures in a row.
    failures: BTreeMap<Work, u32>,
}

impl Queue {
    /// Something has changed. A key that waits after a failure continues to wait.
    pub(super) fn add(&mut self, work: Work, now: Instant) {
        if !self.failures.contains_key(&work) {
            self.due.insert(work, now);
        } else if self.running.contains(&work) {
            // If the current run fails, too, its pause takes precedence.
            self.due.entry(work).or_insert(now);
        }
    }

    /// A user has changed the desired state: the key is due at once.
    pub(super) fn urge(&mut self, work: Work, now: Instant) {
        if self.running.contains(&work) {
            self.urged.insert(work.clone());
        }
        self.due.insert(work, now);
    }

    /// The next key that is due; it counts as running from now on.
    pub(super) fn take(&mut self, now: Instant) -> Option<Work> {
        let idle = self.due.iter().filter(|(work, _)| !self.running.contains(work));
        let (work, _) = idle.filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        let work = work.clone();
        self.due.remove(&work);
        self.running.insert(work.clone());
        Some(work)
    }

    /// When the next key is due; `None` if none waits.
    pub(super) fn next(&self) -> Option<Instant> {
        let idle = self.due.iter().filter(|(work, _)| !self.running.contains(work));
        idle.map(|(_, at)| *at).min()
    }

    /// The run succeeded; the key is due again at `again`, or earlier when something changes.
    pub(super) fn done(&mut self, work: Work, again: Option<Instant>) {
        self.running.remove(&work);
        self.urged.remove(&work);
        self.failures.remove(&work);
        if let Some(again) = again {
            let due = self.due.entry(work).or_insert(again);
            *due = again.min(*due);
        }
    }

    /// The run failed; returns the pause.
    pub(super) fn failed(&mut self, work: Work, now: Instant) -> Duration {
        self.running.remove(&work);
        if self.urged.remove(&work) {
            self.failures.remove(&work);
        }
        let failures = self.failures.entry(work.clone()).or_default();
        let pause = FIRST_PAUSE
            .saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        self.due.insert(work, now + pause);
        pause
    }

    /// Every key that failed is due at once.
    pub(super) fn forgive(&mut self, now: Instant) {
        for work in std::mem::take(&mut self.failures).into_keys() {
            self.due.insert(work, now);
        }
    }

    /// Number of keys that are due and not running.
    pub(super) fn due(&self, now: Instant) -> usize {
        let due = self
            .due
            .iter()
            .filter(|(work, at)| **at <= now && !self.running.contains(work));
        due.count()
    }

    /// Number of keys that are running.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of keys that wait after a failure.
    pub(super) fn failing(&self) -> usize {
        self.failures.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Work {
        Work::Namespace("shop".to_owned())
    }

    #[test]
    fn pauses_grow_and_survive_foreign_changes() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(shop(), now);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            assert_eq!(queue.take(now), Some(shop()));
            let pause = queue.failed(shop(), now);
            queue.add(shop(), now);
            assert_eq!(queue.take(now), None, "not before the pause is over");
            now += pause;
            pauses.push(pause);
        }
        assert_eq!(pauses[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        // A change by a user is tried at once.
        queue.urge(shop(), now - Duration::from_secs(1));
        assert_eq!(queue.take(now - Duration::from_secs(1)), Some(shop()));
        queue.done(shop(), None);
        assert_eq!((queue.failing(), queue.next()), (0, None));
    }

    #[test]
    fn one_key_runs_once_at_a_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(shop(), now);
        queue.add(Work::Mesh, now);
        assert_eq!(
            (queue.take(now), queue.take(now)),
            (Some(Work::Mesh), Some(shop()))
        );
        queue.add(shop(), now);
        assert_eq!((queue.take(now), queue.next()), (None, None), "it runs");
        queue.done(shop(), None);
        assert_eq!(queue.take(now), Some(shop()), "something changed meanwhile");
        queue.done(Work::Mesh, Some(now + Duration::from_secs(2)));
        assert_eq!(queue.next(), Some(now + Duration::from_secs(2)));
    }
}
