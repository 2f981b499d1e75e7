//! What waypoints say of their load.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_wire::waypoint::Load;
use prometheus::{GaugeVec, Opts, Registry};
use tokio::time::Instant;

/// The last report of a waypoint's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Requests in flight, the mean over the time of the report, in thousandths.
    pub in_flight_milli: u64,
    /// It takes no new connections.
    pub draining: bool,
    /// When the report came.
    pub at: Instant,
}

/// The waypoint of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waypoint {
    namespace: String,
    name: String,
}

#[derive(Debug)]
struct Entry {
    waypoint: Waypoint,
    /// The stream that it came on: a replica that reports anew may do so before its old stream has ended.
    stream: u64,
    load: ReplicaLoad,
}

#[derive(Debug, Default)]
struct Entries {
    /// By pod UID.
    replicas: HashMap<String, Entry>,
    streams: u64,
}

/// The last report of each replica whose stream is open. Streams reach the replica of the operator that leads, so on the others it is empty.
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

    /// A stream of reports of the pod `uid`, a replica of the waypoint `name` of `namespace`.
    pub(crate) fn stream(self: &Arc<Self>, namespace: &str, name: &str, uid: &str) -> LoadStream {
        let mut entries = self.lock();
        entries.streams += 1;
        LoadStream {
            table: Arc::clone(self),
            number: entries.streams,
            waypoint: Waypoint {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            uid: uid.to_owned(),
        }
    }

    /// Sets the metric of a waypoint; it goes with its last replica.
    fn sum(&self, entries: &Entries, waypoint: &Waypoint) {
        let of_it: Vec<_> = entries
            .replicas
            .values()
            .filter(|e| e.waypoint == *waypoint)
            .collect();
        let labels = [waypoint.namespace.as_str(), waypoint.name.as_str()];
        if of_it.is_empty() {
            // Fails only where there is no such series.
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

/// Reports of one replica; what it said last is forgotten when this is dropped.
#[derive(Debug)]
pub(crate) struct LoadStream {
    table: Arc<LoadTable>,
    number: u64,
    waypoint: Waypoint,
    uid: String,
}

impl LoadStream {
    pub(crate) fn report(&self, load: &Load) {
        let mut entries = self.table.lock();
        let newer = entries
            .replicas
            .get(&self.uid)
            .is_some_and(|e| e.stream > self.number);
        if newer {
            return;
        }
        let load = ReplicaLoad {
            in_flight_milli: load.in_flight_milli,
            draining: load.draining,
            at: Instant::now(),
        };
        let entry = Entry {
            waypoint: self.waypoint.clone(),
            stream: self.number,
            load,
        };
        entries.replicas.insert(self.uid.clone(), entry);
        self.table.sum(&entries, &self.waypoint);
    }
}

impl Drop for LoadStream {
    fn drop(&mut self) {
        let mut entries = self.table.lock();
        if entries
            .replicas
            .get(&self.uid)
            .is_some_and(|e| e.stream == self.number)
        {
            entries.replicas.remove(&self.uid);
            self.table.sum(&entries, &self.waypoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight_milli: u64) -> Load {
        Load {
            in_flight_milli,
            ..Load::default()
        }
    }

    #[test]
    fn a_waypoints_load_is_that_of_the_replicas_whose_streams_are_open() {
        let registry = Registry::new();
        let table = Arc::new(LoadTable::new(&registry).unwrap());
        let metric = || {
            let families = registry.gather();
            let family = families
                .iter()
                .find(|f| f.name() == "ambit_waypoint_requests_in_flight");
            family.map(|f| f.get_metric()[0].get_gauge().get_value())
        };
        let [a, b] = ["a", "b"].map(|uid| table.stream("shop", "waypoint", uid));
        assert_eq!(table.get("a"), None, "it has said nothing yet");
        a.report(&load(1500));
        b.report(&load(1000));
        a.report(&load(2500));
        assert_eq!(table.get("a").unwrap().in_flight_milli, 2500);
        assert_eq!(metric(), Some(3.5));

        let again = table.stream("shop", "waypoint", "a");
        again.report(&load(500));
        a.report(&load(9000));
        drop(a);
        assert_eq!(
            table.get("a").unwrap().in_flight_milli,
            500,
            "the newer stream counts"
        );
        drop(again);
        drop(b);
        assert_eq!((table.get("a"), table.get("b"), metric()), (None, None, None));
    }
}
