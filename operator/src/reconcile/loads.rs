//! Load of waypoints, as received from every replica of the control plane.

mod follow;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ambit_wire::loads::{Excess, Replica};
use prometheus::{GaugeVec, Opts, Registry};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use follow::{ControlPlanes, LoadFollower};

/// The last report of a replica of a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Requests in flight, the mean over the time of the report, in thousandths.
    pub in_flight_milli: u64,
    /// It accepts no new connections.
    pub draining: bool,
    /// When the report came.
    pub at: Instant,
}

/// The waypoint of the replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waypoint {
    namespace: String,
    name: String,
}

#[derive(Debug)]
struct Entry {
    waypoint: Waypoint,
    /// The source: a replica that reports elsewhere may do so before its old stream has ended.
    source: u64,
    load: ReplicaLoad,
    /// What of it is to go to other replicas, in thousandths of requests in flight, until the source has been told.
    excess_milli: u64,
}

#[derive(Debug, Default)]
struct Entries {
    /// By pod UID.
    replicas: HashMap<String, Entry>,
    /// What wakes each, when it has something to tell.
    sources: HashMap<u64, Arc<Notify>>,
    latest: u64,
}

/// The last report of each replica. Empty unless this replica leads.
#[derive(Debug)]
pub struct LoadTable {
    entries: Mutex<Entries>,
    in_flight: GaugeVec,
}

impl LoadTable {
    /// An empty table; its metric goes to `registry`.
    ///
    /// # Errors
    /// When the registry has a metric of that name.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let in_flight = GaugeVec::new(
            Opts::new(
                "ambit_waypoint_requests_in_flight",
                "Requests in flight in a waypoint, all replicas together, as they reported last.",
            ),
            &["namespace", "waypoint"],
        )?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self {
            entries: Mutex::default(),
            in_flight,
        })
    }

    /// The last report of the pod with this UID.
    pub fn get(&self, uid: &str) -> Option<ReplicaLoad> {
        self.lock().replicas.get(uid).map(|e| e.load)
    }

    /// Has replicas told, by pod UID, what of their load is to go to others, in thousandths of requests in flight.
    pub(super) fn spread(&self, excesses: Vec<(String, u64)>) {
        let mut entries = self.lock();
        let Entries {
            replicas, sources, ..
        } = &mut *entries;
        for (uid, excess_milli) in excesses {
            if let Some(entry) = replicas.get_mut(&uid) {
                entry.excess_milli = excess_milli;
                sources.get(&entry.source).inspect(|told| told.notify_one());
            }
        }
    }

    /// A source of reports.
    fn source(self: &Arc<Self>) -> Source {
        let mut entries = self.lock();
        entries.latest += 1;
        let (number, told) = (entries.latest, Arc::<Notify>::default());
        entries.sources.insert(number, Arc::clone(&told));
        Source {
            table: Arc::clone(self),
            number,
            told,
        }
    }

    /// Sets the metric of a waypoint; it is removed with the last replica.
    fn sum(&self, entries: &Entries, waypoint: &Waypoint) {
        let of_it: Vec<_> = entries
            .replicas
            .values()
            .filter(|e| e.waypoint == *waypoint)
            .collect();
        let labels = [waypoint.namespace.as_str(), waypoint.name.as_str()];
        if of_it.is_empty() {
            // Fails only if there is no such series.
            let _ = self.in_flight.remove_label_values(&labels);
            return;
        }
        let milli: u64 = of_it.iter().map(|e| e.load.in_flight_milli).sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "more than 2^53 thousandths are not in flight"
        )]
        self.in_flight
            .with_label_values(&labels)
            .set(milli as f64 / 1000.0);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source of reports; dropping this removes its reports.
#[derive(Debug)]
struct Source {
    table: Arc<LoadTable>,
    number: u64,
    told: Arc<Notify>,
}

impl Source {
    /// Applies changes. If two sources have a replica, the later report counts.
    fn take(&self, replicas: Vec<Replica>) {
        let now = Instant::now();
        let mut entries = self.table.lock();
        let mut changed = HashSet::new();
        for replica in replicas {
            let held = entries.replicas.get(&replica.uid);
            let Some(report) = replica.report else {
                if held.is_some_and(|held| held.source == self.number)
                    && let Some(gone) = entries.replicas.remove(&replica.uid)
                {
                    changed.insert(gone.waypoint);
                }
                continue;
            };
            let age = Duration::from_millis(report.age_milliseconds);
            let at = now.checked_sub(age).unwrap_or(now);
            if held.is_some_and(|held| held.source != self.number && held.load.at > at) {
                continue;
            }
            let waypoint = Waypoint {
                namespace: replica.namespace,
                name: replica.waypoint,
            };
            let load = ReplicaLoad {
                in_flight_milli: report.in_flight_milli,
                draining: report.draining,
                at,
            };
            let entry = Entry {
                waypoint: waypoint.clone(),
                source: self.number,
                load,
                excess_milli: held.map_or(0, |held| held.excess_milli),
            };
            entries.replicas.insert(replica.uid, entry);
            changed.insert(waypoint);
        }
        for waypoint in &changed {
            self.table.sum(&entries, waypoint);
        }
    }

    /// What its replicas are to hand to others, as soon as there is any.
    async fn excesses(&self) -> Vec<Excess> {
        loop {
            self.told.notified().await;
            let mut entries = self.table.lock();
            let own = entries.replicas.iter_mut();
            let own = own.filter(|(_, e)| e.source == self.number && e.excess_milli > 0);
            let excesses: Vec<_> = own
                .map(|(uid, entry)| Excess {
                    uid: uid.clone(),
                    in_flight_milli: std::mem::take(&mut entry.excess_milli),
                })
                .collect();
            if !excesses.is_empty() {
                return excesses;
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut entries = self.table.lock();
        entries.sources.remove(&self.number);
        let gone = entries.replicas.extract_if(|_, e| e.source == self.number);
        let waypoints: HashSet<_> = gone.map(|(_, e)| e.waypoint).collect();
        for waypoint in &waypoints {
            self.table.sum(&entries, waypoint);
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use ambit_wire::loads::Report;
    use ambit_wire::waypoint::Load;

    use super::*;

    /// A replica that reports, through its own control plane.
    pub(in crate::reconcile) struct Reporter {
        source: Source,
        replica: Replica,
    }

    impl LoadTable {
        pub(in crate::reconcile) fn stream(
            self: &Arc<Self>,
            namespace: &str,
            waypoint: &str,
            uid: &str,
        ) -> Reporter {
            Reporter {
                source: self.source(),
                replica: Replica {
                    uid: uid.to_owned(),
                    namespace: namespace.to_owned(),
                    waypoint: waypoint.to_owned(),
                    report: None,
                },
            }
        }
    }

    impl Reporter {
        pub(in crate::reconcile) fn report(&self, load: &Load) {
            let report = Report {
                in_flight_milli: load.in_flight_milli,
                draining: load.draining,
                age_milliseconds: 0,
            };
            self.source.take(vec![Replica {
                report: Some(report),
                ..self.replica.clone()
            }]);
        }
    }
}

#[cfg(test)]
mod tests {
    use ambit_wire::loads::Report;

    use super::*;

    fn replica(uid: &str, report: Option<(u64, u64)>) -> Vec<Replica> {
        let report = report.map(|(in_flight_milli, age_milliseconds)| Report {
            in_flight_milli,
            draining: false,
            age_milliseconds,
        });
        vec![Replica {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            waypoint: "waypoint".to_owned(),
            report,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn latest_report_of_a_replica_counts() {
        let registry = Registry::new();
        let table = Arc::new(LoadTable::new(&registry).unwrap());
        tokio::time::advance(Duration::from_secs(60)).await;
        let metric = || {
            let families = registry.gather();
            let family = families
                .iter()
                .find(|f| f.name() == "ambit_waypoint_requests_in_flight");
            family.map(|f| f.get_metric()[0].get_gauge().get_value())
        };
        let of = |uid: &str| table.get(uid).map(|load| load.in_flight_milli);
        let [one, two] = [table.source(), table.source()];
        one.take(replica("a", Some((1500, 100))));
        one.take(replica("b", Some((1000, 0))));
        assert_eq!((of("a"), of("b"), metric()), (Some(1500), Some(1000), Some(2.5)));
        // The replica reports elsewhere from now on; older reports do not count.
        two.take(replica("a", Some((9000, 200))));
        assert_eq!(of("a"), Some(1500));
        two.take(replica("a", Some((500, 50))));
        assert_eq!((of("a"), metric()), (Some(500), Some(1.5)));
        one.take(replica("a", None));
        assert_eq!(of("a"), Some(500), "the end of the old stream");
        drop(one);
        assert_eq!((of("a"), of("b"), metric()), (Some(500), None, Some(0.5)));
        two.take(replica("a", None));
        assert_eq!((of("a"), metric()), (None, None));
    }
}
