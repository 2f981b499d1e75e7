//! Waypoints take turns when a change concerns all of them: a share of them replaces its pods at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_crds::labels;
use k8s_openapi::api::apps::v1::Deployment;
use tokio::time::Instant;

use crate::index::Key;
use crate::reconcile::Objects;

/// One in this many waypoints at a time, and at least one.
const SHARE: usize = 10;
/// A waypoint that is not ready by then no longer holds up the others: its namespace may lack something that its pods
/// need.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waypoints that replace their pods, and those that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Rolls {
    /// With the template (see [`template`]) to which they change, and since when.
    under_way: BTreeMap<Key, (String, Instant)>,
    waiting: BTreeMap<Key, Instant>,
}

impl Rolls {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&Key) -> bool) {
        self.under_way.retain(|key, _| stays(key));
        self.waiting.retain(|key, _| stays(key));
    }

    /// Whether a waypoint may change to `desired` now; `live` is its current state. A waypoint that has to `scale` does
    /// not wait, nor does one whose change comes from its own namespace only.
    pub(super) fn may_change(
        &mut self,
        key: &Key,
        live: Option<&Deployment>,
        desired: &str,
        scale: bool,
        objects: &Objects,
        now: Instant,
    ) -> bool {
        let rolls = live.is_some_and(|live| template(live) != Some(desired));
        let begun = self.under_way.get(key).is_some_and(|(to, _)| to == desired);
        if !rolls || begun {
            self.waiting.remove(key);
            return true;
        }
        self.waiting.entry(key.clone()).or_insert(now);
        if !scale && !self.next(objects, now).contains(key) {
            return false;
        }
        self.waiting.remove(key);
        self.under_way.insert(key.clone(), (desired.to_owned(), now));
        true
    }

    /// The waypoints whose turn it is, the longest waiting first.
    pub(super) fn next(&mut self, objects: &Objects, now: Instant) -> Vec<Key> {
        self.under_way.retain(|key, (to, _)| {
            let live = objects.deployment(key);
            !live.is_some_and(|live| template(&live) == Some(to) && is_settled(&live))
        });
        let young = |(_, since): &&(String, Instant)| now.duration_since(*since) < PATIENCE;
        let busy = self.under_way.values().filter(young).count();
        let free = (objects.registered_count() / SHARE).max(1).saturating_sub(busy);
        let mut waiting: Vec<_> = self.waiting.iter().collect();
        waiting.sort_by_key(|(_, since)| **since);
        waiting
            .into_iter()
            .take(free)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// The template settings that all waypoints share.
fn template(deployment: &Deployment) -> Option<&str> {
    let annotations = deployment.metadata.annotations.as_ref()?;
    annotations.get(labels::TEMPLATE_HASH).map(String::as_str)
}

/// Whether all of its pods have the newest template, and are ready.
fn is_settled(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or_default() >= desired.unwrap_or_default()
        && status.available_replicas.unwrap_or_default() >= desired.unwrap_or_default()
        && status.replicas <= status.updated_replicas
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::index::Registered;

    fn key(name: &str) -> Key {
        Key::new(name, "waypoint")
    }

    /// The Deployment of a waypoint as the watch shows it.
    fn shows(objects: &Objects, name: &str, template: &str, ready: bool) {
        let deployment = json!({
            "metadata": {"generation": 1, "annotations": {labels::TEMPLATE_HASH: template}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {
                "observedGeneration": 1, "replicas": if ready { 2 } else { 3 }, "updatedReplicas": if ready { 2 } else { 1 },
                "availableReplicas": 2,
            },
        });
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        objects.set_deployment(&key(name), Some(deployment));
        objects.set_register(name, &[("waypoint".to_owned(), Registered::default())].into());
    }

    /// Those of `names` that may change now.
    fn change(rolls: &mut Rolls, objects: &Objects, names: &[&str], now: Instant) -> Vec<String> {
        let may = names.iter().filter(|name| {
            let live = objects.deployment(&key(name));
            rolls.may_change(&key(name), live.as_deref(), "new", false, objects, now)
        });
        may.map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn waypoints_take_turns() {
        let (objects, mut rolls, now) = (Objects::default(), Rolls::default(), Instant::now());
        let all = ["a", "b", "c"];
        all.iter().for_each(|name| shows(&objects, name, "old", true));
        assert_eq!(change(&mut rolls, &objects, &all, now), ["a"]);
        // The change is not visible yet; after that its pods are being replaced.
        for (template, ready) in [("old", true), ("new", false)] {
            shows(&objects, "a", template, ready);
            assert_eq!(change(&mut rolls, &objects, &all, now), ["a"]);
            assert_eq!(rolls.next(&objects, now), []);
        }
        shows(&objects, "a", "new", true);
        assert_eq!(rolls.next(&objects, now), [key("b")]);
        assert_eq!(change(&mut rolls, &objects, &all, now), ["a", "b"]);
        // One that never becomes ready holds up the others only for a time.
        shows(&objects, "b", "new", false);
        assert_eq!(change(&mut rolls, &objects, &["c"], now + PATIENCE / 2), [""; 0]);
        assert_eq!(change(&mut rolls, &objects, &["c"], now + PATIENCE), ["c"]);
    }

    #[tokio::test]
    async fn new_and_scaling_waypoints_do_not_wait() {
        let (objects, mut rolls, now) = (Objects::default(), Rolls::default(), Instant::now());
        for name in ["a", "b"] {
            shows(&objects, name, "old", true);
        }
        assert_eq!(
            change(&mut rolls, &objects, &["a", "b", "new"], now),
            ["a", "new"]
        );
        let live = objects.deployment(&key("b"));
        assert!(rolls.may_change(&key("b"), live.as_deref(), "new", true, &objects, now));
        // A change of its namespace's settings does not change the shared ones.
        assert!(rolls.may_change(&key("b"), live.as_deref(), "old", false, &objects, now));
    }

    #[tokio::test]
    async fn a_tenth_of_many_waypoints_changes_at_once() {
        let (objects, mut rolls, now) = (Objects::default(), Rolls::default(), Instant::now());
        let names: Vec<_> = (0..40).map(|n| format!("n{n:02}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        names.iter().for_each(|name| shows(&objects, name, "old", true));
        assert_eq!(change(&mut rolls, &objects, &names, now), names[..4]);
    }
}
