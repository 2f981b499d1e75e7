//! Another writer of an object of the operator's: the two overwrite each other without end. The operator writes less
//! and less often, and names the other writer.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use super::Id;
use crate::reconcile::FIELD_MANAGER;

/// Up to this number of overwrites, an object is corrected at once: a user may be trying something by hand.
const AT_ONCE: u32 = 3;
/// The pause after the next one; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// If nobody has overwritten an object for this long, the contest is over.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Objects with another writer.
#[derive(Debug, Default)]
pub(super) struct Contests(HashMap<Id, Contest>);

#[derive(Debug)]
struct Contest {
    /// How often the object was corrected.
    times: u32,
    last: Instant,
    /// The other writer.
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
    /// Whether an overwritten object has to wait; if so, the writer and the remaining time.
    pub(super) fn waits(&self, id: &Id) -> Option<(String, Duration)> {
        let contest = self.0.get(id)?;
        let left = contest.pause().checked_sub(contest.last.elapsed())?;
        (!left.is_zero()).then(|| (contest.manager.clone(), left))
    }

    /// Records that an object, overwritten by `manager`, is corrected.
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

/// The last writer of an object besides the operator, by its metadata.
pub(super) fn other_writer(meta: &ObjectMeta) -> String {
    let others = meta.managed_fields.iter().flatten().filter(|entry| {
        let subresource = entry.subresource.as_deref().unwrap_or_default();
        entry.manager.as_deref() != Some(FIELD_MANAGER) && subresource != "status"
    });
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone())
        .unwrap_or_else(|| "somebody".to_owned())
}
