//! The current number of replicas of each waypoint, and what each hands to the others: decided once a second by their reports.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use tokio::time::Instant;

use super::scale::{Demand, Scaler};
use super::spread::Spreader;
use crate::index::{Key, ScalingSettings, WaypointSummary};
use crate::reconcile::LoadTable;

/// Maximum age of a report: they arrive every second.
const FRESH: Duration = Duration::from_secs(5);

/// A change of a waypoint's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: u32,
    pub(super) to: u32,
    /// Requests in flight that caused it, in thousandths.
    pub(super) in_flight_milli: u64,
}

/// A waypoint's scaler.
#[derive(Debug)]
struct Scaled {
    scaler: Scaler,
    spreader: Spreader,
    /// The number of replicas in the last Event.
    published: u32,
    /// The load at the latest evaluation.
    in_flight_milli: u64,
}

/// The scalers of all waypoints.
#[derive(Debug)]
pub(super) struct Autoscaler {
    loads: Arc<LoadTable>,
    scalers: Mutex<BTreeMap<Key, Scaled>>,
}

impl Autoscaler {
    pub(super) fn new(loads: Arc<LoadTable>) -> Self {
        Self {
            loads,
            scalers: Mutex::default(),
        }
    }

    /// Forgets everything: each waypoint begins with its current replicas.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// Forgets a waypoint.
    pub(super) fn remove(&self, waypoint: &Key) {
        self.lock().remove(waypoint);
    }

    /// Keeps only these waypoints.
    pub(super) fn retain(&self, stays: impl Fn(&Key) -> bool) {
        self.lock().retain(|key, _| stays(key));
    }

    /// The desired replicas of the waypoint; at first those of its Deployment, and without one the minimum.
    pub(super) fn replicas(
        &self,
        waypoint: &Key,
        scaling: &ScalingSettings,
        deployment: Option<&Deployment>,
    ) -> u32 {
        let mut scalers = self.lock();
        let scaled = scalers.entry(waypoint.clone()).or_insert_with(|| {
            let live = deployment.and_then(|d| u32::try_from(d.spec.as_ref()?.replicas?).ok());
            let published = live.unwrap_or(scaling.min);
            Scaled {
                scaler: Scaler::new(published, Instant::now()),
                spreader: Spreader::default(),
                published,
                in_flight_milli: 0,
            }
        });
        scaled.scaler.limited(scaling)
    }

    /// The change since the last call, if any: the waypoint has `replicas` now.
    pub(super) fn take_change(&self, waypoint: &Key, replicas: u32) -> Option<Change> {
        let mut scalers = self.lock();
        let scaled = scalers.get_mut(waypoint)?;
        let from = std::mem::replace(&mut scaled.published, replicas);
        (from != replicas).then_some(Change {
            from,
            to: replicas,
            in_flight_milli: scaled.in_flight_milli,
        })
    }

    /// Evaluates the current reports, and spreads the load; returns the change of replicas, if any.
    pub(super) fn evaluate(&self, waypoint: &Key, summary: &WaypointSummary, now: Instant) -> Option<Change> {
        let mut scalers = self.lock();
        let scaled = scalers.get_mut(waypoint)?;
        let (demand, loads) = self.demand(summary, now);
        if demand.incomplete {
            scaled.spreader.forget();
        } else {
            self.loads.spread(scaled.spreader.decide(&loads));
        }
        scaled.in_flight_milli = demand.in_flight_milli;
        let from = scaled.scaler.current();
        let to = scaled.scaler.decide(demand, &summary.scaling, now);
        (from != to).then_some(Change {
            from,
            to,
            in_flight_milli: demand.in_flight_milli,
        })
    }

    /// The load of the ready replicas, in all and by pod UID.
    fn demand<'a>(&self, summary: &'a WaypointSummary, now: Instant) -> (Demand, Vec<(&'a str, u64)>) {
        let mut demand = Demand::default();
        let mut loads = Vec::with_capacity(summary.pods.len());
        for pod in summary.pods.iter().filter(|p| p.ready) {
            match self.loads.get(&pod.uid) {
                // It accepts nothing new, and will soon show as not ready.
                Some(load) if load.draining => {}
                Some(load) if now.saturating_duration_since(load.at) <= FRESH => {
                    demand.in_flight_milli += load.in_flight_milli;
                    loads.push((pod.uid.as_str(), load.in_flight_milli));
                }
                _ => demand.incomplete = true,
            }
        }
        demand.incomplete |= loads.is_empty();
        (demand, loads)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Scaled>> {
        self.scalers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ambit_wire::waypoint::Load;
    use prometheus::Registry;

    use super::*;
    use crate::index::WaypointPod;

    const SCALING: ScalingSettings = ScalingSettings {
        min: 1,
        max: 5,
        target: 10,
        up: Duration::ZERO,
        down: Duration::from_secs(60),
    };

    fn summary(ready: &[&str]) -> WaypointSummary {
        let pod = |uid: &&str| WaypointPod {
            name: (*uid).to_owned(),
            uid: (*uid).to_owned(),
            ready: true,
        };
        WaypointSummary {
            name: "waypoint".into(),
            desired: true,
            scaling: SCALING,
            pods: ready.iter().map(pod).collect(),
            ..WaypointSummary::default()
        }
    }

    fn load(in_flight: u64, draining: bool) -> Load {
        Load {
            in_flight_milli: in_flight * 1000,
            draining,
            ..Load::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_follow_reported_load() {
        let loads = Arc::new(LoadTable::new(&Registry::new()).unwrap());
        let autoscaler = Autoscaler::new(Arc::clone(&loads));
        let key = Key::new("shop", "waypoint");
        let streams = ["a", "b", "c"].map(|uid| loads.stream("shop", "waypoint", uid));
        assert_eq!(
            autoscaler.evaluate(&key, &summary(&["a"]), Instant::now()),
            None,
            "it does not exist yet"
        );
        assert_eq!(autoscaler.replicas(&key, &SCALING, None), 1);

        streams[0].report(&load(15, false));
        streams[1].report(&load(10, false));
        streams[2].report(&load(100, false));
        let change = autoscaler.evaluate(&key, &summary(&["a", "b"]), Instant::now());
        assert_eq!(
            change,
            Some(Change {
                from: 1,
                to: 3,
                in_flight_milli: 25_000
            }),
            "c is not ready"
        );

        // The window for fewer passes, with one replica's reports missing for a moment.
        let mut fewer = Vec::new();
        for second in 0..200 {
            streams[0].report(&load(1, false));
            if second != 50 {
                streams[1].report(&load(0, second == 199));
            }
            let pods: &[&str] = if second == 50 {
                &["a", "b", "x"]
            } else {
                &["a", "b"]
            };
            if let Some(change) = autoscaler.evaluate(&key, &summary(pods), Instant::now()) {
                fewer.push((second, change.to));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(fewer, [(110, 1)]);
        assert_eq!(autoscaler.replicas(&key, &SCALING, None), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn old_report_counts_as_missing() {
        let loads = Arc::new(LoadTable::new(&Registry::new()).unwrap());
        let autoscaler = Autoscaler::new(Arc::clone(&loads));
        let key = Key::new("shop", "waypoint");
        let deployment: Deployment = serde_json::from_value(
            serde_json::json!({"spec": {"replicas": 4, "selector": {}, "template": {}}}),
        )
        .unwrap();
        assert_eq!(autoscaler.replicas(&key, &SCALING, Some(&deployment)), 4);
        let stream = loads.stream("shop", "waypoint", "a");
        stream.report(&load(0, false));
        for _ in 0..300 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(autoscaler.evaluate(&key, &summary(&["a"]), Instant::now()), None);
        }
    }
}
