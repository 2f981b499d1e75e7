//! Delays writes of statuses in which only counters have changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

/// The least time between two writes of one status.
const PAUSE: Duration = Duration::from_secs(1);

/// When each status was last written, and whether pods were changing then.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<BTreeMap<String, (Instant, bool)>>);

impl Pace {
    /// How long the status of `key` is not written yet; `None`: write now. Only changes of `counters` wait. The last one
    /// does not: `changing` is whether pods are still being captured or released.
    pub(super) fn hold(&self, key: &str, counters: bool, changing: bool) -> Option<Duration> {
        let now = Instant::now();
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, (at, _)| now.duration_since(*at) < PAUSE);
        match written.get(key) {
            Some((at, before)) if counters && (changing || !before) => {
                Some((*at + PAUSE).duration_since(now))
            }
            _ => {
                written.insert(key.to_owned(), (now, changing));
                None
            }
        }
    }
}

/// Whether these differ at most in their messages, which contain counters.
pub(super) fn differ_in_messages_at_most(before: &[Condition], after: &[Condition]) -> bool {
    let said = |c: &Condition| {
        let Condition {
            type_,
            status,
            reason,
            observed_generation,
            ..
        } = c;
        (
            type_.clone(),
            status.clone(),
            reason.clone(),
            *observed_generation,
        )
    };
    before.iter().map(said).eq(after.iter().map(said))
}
