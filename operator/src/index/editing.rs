//! Edits of a namespace's rules that come in a storm: each goes to every node with a pod of the namespace, so the last of them is waited for.

use std::time::Duration;

use super::waypoint::Timer;
use super::{AmbientRecord, Index};

/// Edits of one namespace's rules within [`WINDOW`] that go out at once.
pub(super) const AT_ONCE: u32 = 5;

/// What comes after these goes out at the end of this time, as it is by then.
const WINDOW: Duration = Duration::from_secs(5);

/// Edits of one namespace within a window.
#[derive(Debug, Default)]
pub(super) struct Edits {
    count: u32,
    /// The object as it is, if it is not what the index has.
    deferred: Option<Option<AmbientRecord>>,
}

impl Index {
    /// A namespace's AmbientNamespace as it is now; `None` when it is gone. One that changes again and again is taken late: until then its rules
    /// and settings are as before.
    pub fn set_ambient(&mut self, namespace: &str, record: Option<AmbientRecord>) {
        if let Some(edits) = self.edits.get_mut(namespace).filter(|e| e.count >= AT_ONCE) {
            if edits.deferred.is_none() {
                tracing::warn!(
                    namespace,
                    "the AmbientNamespace changes very often: only its last state is applied, after \
                     {WINDOW:?}"
                );
                self.dirty.namespaces.insert(namespace.to_owned());
            }
            edits.deferred = Some(record);
            return;
        }
        let before = self.ambient.get(namespace);
        if before == record.as_ref() {
            return;
        }
        let rules = |record: Option<&AmbientRecord>| record.map(|r| r.rules.clone()).unwrap_or_default();
        if self.started && rules(before) != rules(record.as_ref()) {
            let edits = self.edits.entry(namespace.to_owned()).or_default();
            edits.count += 1;
            if edits.count == 1 {
                self.timer += 1;
                self.timers.push(Timer::of_edits(namespace, WINDOW, self.timer));
            }
        }
        self.take_ambient(namespace, record);
    }

    /// The window is over.
    pub(super) fn end_edits(&mut self, namespace: &str) {
        if let Some(record) = self.edits.remove(namespace).and_then(|edits| edits.deferred) {
            self.dirty.namespaces.insert(namespace.to_owned());
            self.set_ambient(namespace, record);
        }
    }

    /// Whether the namespace's object has changed and has yet to be taken.
    pub(super) fn is_deferred(&self, namespace: &str) -> bool {
        self.edits
            .get(namespace)
            .is_some_and(|edits| edits.deferred.is_some())
    }
}
