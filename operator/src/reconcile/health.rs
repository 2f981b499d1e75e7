//! Liveness of the loops of this replica.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The writer's loop runs every second.
const WRITER_LIMIT: Duration = Duration::from_secs(60);
/// A watch restarts at least every minute, and within half a minute after a failure.
const WATCH_LIMIT: Duration = Duration::from_secs(600);

/// When each loop ran last. A loop that never began is not checked.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Beats>>);

#[derive(Debug, Default)]
struct Beats {
    writer: Option<Instant>,
    /// By path and selectors, since several watches may have the same path.
    watches: BTreeMap<String, Instant>,
}

impl Health {
    pub(super) fn beat_writer(&self) {
        self.lock().writer = Some(Instant::now());
    }

    pub(super) fn beat_watch(&self, objects: &str) {
        let mut beats = self.lock();
        match beats.watches.get_mut(objects) {
            Some(at) => *at = Instant::now(),
            None => {
                beats.watches.insert(objects.to_owned(), Instant::now());
            }
        }
    }

    /// The loop that is stuck, if any: only a restart helps.
    pub fn stuck(&self) -> Option<String> {
        let beats = self.lock();
        if beats.writer.is_some_and(|at| at.elapsed() > WRITER_LIMIT) {
            return Some("the writer's loop is stuck".to_owned());
        }
        let late = beats.watches.iter().find(|(_, at)| at.elapsed() > WATCH_LIMIT);
        late.map(|(objects, _)| format!("the watch of {objects} is stuck"))
    }

    /// The subject of lists and watches: paths with selectors.
    #[cfg(test)]
    pub(super) fn watched(&self) -> Vec<String> {
        self.lock().watches.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stuck_loop_is_named() {
        let health = Health::default();
        tokio::time::advance(WATCH_LIMIT * 2).await;
        assert_eq!(health.stuck(), None, "no loop runs yet");
        health.beat_writer();
        health.beat_watch("/api/v1/pods");
        assert_eq!(health.stuck(), None);
        tokio::time::advance(WRITER_LIMIT * 2).await;
        assert_eq!(health.stuck().as_deref(), Some("the writer's loop is stuck"));
        tokio::time::advance(WATCH_LIMIT).await;
        health.beat_writer();
        assert_eq!(
            health.stuck().as_deref(),
            Some("the watch of /api/v1/pods is stuck")
        );
    }
}
