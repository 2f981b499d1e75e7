//! Another writer of an object of the operator's: what the one writes, the other overwrites, without end. The operator writes less and less often,
//! and says who the other is.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use super::Id;
use crate::reconcile::FIELD_MANAGER;

/// Objects that were overwritten so often are put right at once: somebody tries something by hand.
const AT_ONCE: u32 = 3;
/// The pause after the next; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An object that nobody has overwritten for so long is the operator's again.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Objects that somebody else writes too.
#[derive(Debug, Default)]
pub(super) struct Contests(HashMap<Id, Contest>);

#[derive(Debug)]
struct Contest {
    /// How often the object was put right.
    times: u32,
    last: Instant,
    /// The other.
    manager: String,
}

impl Contest {
    fn pause(&self) -> Duration {
        let Some(more) = self.times.checked_sub(AT_ONCE) else {
            return Duration::ZERO;
        };
        FIRST_PAUSE
            .saturating_mul(1u32.checked_shl(more).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE)
    }
}

impl Contests {
    /// Whether an object that somebody has overwritten is to wait; then who that was, and how long.
    pub(super) fn waits(&self, id: &Id) -> Option<(String, Duration)> {
        let contest = self.0.get(id)?;
        let left = contest.pause().checked_sub(contest.last.elapsed())?;
        (!left.is_zero()).then(|| (contest.manager.clone(), left))
    }

    /// An object that `manager` has overwritten is put right.
    pub(super) fn put_right(&mut self, id: &Id, manager: String) {
        let now = Instant::now();
        self.0.retain(|_, contest| contest.last.elapsed() < FORGOTTEN);
        let contest = self.0.entry(id.clone()).or_insert(Contest {
            times: 0,
            last: now,
            manager: String::new(),
        });
        contest.times = contest.times.saturating_add(1);
        contest.last = now;
        contest.manager = manager;
    }
}

/// The last to write to an object besides the operator, as its metadata has it.
pub(super) fn other_writer(meta: &ObjectMeta) -> String {
    let others = meta.managed_fields.iter().flatten().filter(|entry| {
        let subresource = entry.subresource.as_deref().unwrap_or_default();
        entry.manager.as_deref() != Some(FIELD_MANAGER) && subresource != "status"
    });
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone())
        .unwrap_or_else(|| "somebody".to_owned())
}
