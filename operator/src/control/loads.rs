//! Load reports of waypoints to this replica, and their watches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_wire::loads::{Replica, Report};
use ambit_wire::waypoint::Load;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Maximum of watches: each replica of the operator that leads, or led until a moment ago, has one.
const WATCHES: usize = 16;
/// Maximum of replicas in one message of a watch.
const BATCH: usize = 1024;

/// The last report of each replica of a waypoint whose stream is open.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By pod UID.
    replicas: HashMap<String, Entry>,
    watches: HashMap<u64, Watch>,
    /// Numbers of streams and of watches.
    latest: u64,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    waypoint: String,
    /// The stream of the report: a replica that reconnects may report before its old stream has ended.
    stream: u64,
    in_flight_milli: u64,
    draining: bool,
    at: Instant,
    /// What the operator says it has beyond its share, until it is told.
    excess_milli: u64,
}

/// Unsent changes of one watch. It has at most one entry per replica: those with a report, and those whose report was
/// sent.
#[derive(Debug, Default)]
struct Watch {
    changed: BTreeSet<String>,
    /// Replicas whose report was sent, and their end not yet.
    sent: HashSet<String>,
    notify: Arc<Notify>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.latest += 1;
        self.latest
    }
}

impl Loads {
    /// A stream of reports of the pod `uid`, a replica of the waypoint `name` of `namespace`.
    pub(super) fn stream(self: &Arc<Self>, namespace: &str, name: &str, uid: &str) -> LoadStream {
        LoadStream {
            loads: Arc::clone(self),
            number: self.lock().number(),
            namespace: namespace.to_owned(),
            waypoint: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    /// A watch, which begins with the current reports; `None` if there are too many.
    pub(super) fn watch(self: &Arc<Self>) -> Option<LoadWatch> {
        let mut state = self.lock();
        if state.watches.len() >= WATCHES {
            return None;
        }
        let number = state.number();
        let watch = Watch {
            changed: state.replicas.keys().cloned().collect(),
            ..Watch::default()
        };
        let notify = Arc::clone(&watch.notify);
        state.watches.insert(number, watch);
        Some(LoadWatch {
            loads: Arc::clone(self),
            number,
            notify,
            begun: false,
        })
    }

    /// Replicas of waypoints (pod UIDs) have so many requests in flight beyond their share, in thousandths: each is told with the
    /// acknowledgement of its next report.
    pub(super) fn spread(&self, excesses: impl IntoIterator<Item = (String, u64)>) {
        let mut state = self.lock();
        for (uid, excess_milli) in excesses {
            if let Some(entry) = state.replicas.get_mut(&uid) {
                entry.excess_milli = excess_milli;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports of one replica; dropping this removes its last report.
#[derive(Debug)]
pub(super) struct LoadStream {
    loads: Arc<Loads>,
    number: u64,
    namespace: String,
    waypoint: String,
    uid: String,
}

impl LoadStream {
    /// Takes a report; returns what of the load is beyond the replica's share, as the operator has said since the one before, in
    /// thousandths.
    pub(super) fn report(&self, load: &Load) -> u64 {
        let mut state = self.loads.lock();
        let before = state.replicas.get(&self.uid);
        if before.is_some_and(|e| e.stream > self.number) {
            return 0;
        }
        let excess_milli = before.map_or(0, |e| e.excess_milli);
        let entry = Entry {
            namespace: self.namespace.clone(),
            waypoint: self.waypoint.clone(),
            stream: self.number,
            in_flight_milli: load.in_flight_milli,
            draining: load.draining,
            at: Instant::now(),
            excess_milli: 0,
        };
        state.replicas.insert(self.uid.clone(), entry);
        for watch in state.watches.values_mut() {
            watch.changed.insert(self.uid.clone());
            watch.notify.notify_one();
        }
        excess_milli
    }
}

impl Drop for LoadStream {
    fn drop(&mut self) {
        let mut state = self.loads.lock();
        let last = state.replicas.get(&self.uid);
        if last.is_none_or(|e| e.stream != self.number) {
            return;
        }
        state.replicas.remove(&self.uid);
        for watch in state.watches.values_mut() {
            if watch.sent.contains(&self.uid) {
                watch.changed.insert(self.uid.clone());
                watch.notify.notify_one();
            } else {
                watch.changed.remove(&self.uid);
            }
        }
    }
}

/// The reports to this replica, now and when they change.
#[derive(Debug)]
pub(super) struct LoadWatch {
    loads: Arc<Loads>,
    number: u64,
    notify: Arc<Notify>,
    /// The first batch has been sent, even if empty.
    begun: bool,
}

impl LoadWatch {
    /// The changes since the last call, as soon as there are any.
    pub(super) async fn next(&mut self) -> Vec<Replica> {
        loop {
            let batch = self.take();
            if !batch.is_empty() || !std::mem::replace(&mut self.begun, true) {
                self.begun = true;
                return batch;
            }
            self.notify.notified().await;
        }
    }

    fn take(&self) -> Vec<Replica> {
        let mut state = self.loads.lock();
        let State {
            replicas, watches, ..
        } = &mut *state;
        let Some(watch) = watches.get_mut(&self.number) else {
            return Vec::new();
        };
        let now = Instant::now();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(uid) = watch.changed.pop_first()
        {
            match replicas.get(&uid) {
                Some(entry) => {
                    watch.sent.insert(uid.clone());
                    batch.push(entry.message(uid, now));
                }
                None if watch.sent.remove(&uid) => batch.push(Replica {
                    uid,
                    ..Replica::default()
                }),
                None => {}
            }
        }
        batch
    }
}

impl Drop for LoadWatch {
    fn drop(&mut self) {
        self.loads.lock().watches.remove(&self.number);
    }
}

impl Entry {
    fn message(&self, uid: String, now: Instant) -> Replica {
        let age = now.saturating_duration_since(self.at).as_millis();
        Replica {
            uid,
            namespace: self.namespace.clone(),
            waypoint: self.waypoint.clone(),
            report: Some(Report {
                in_flight_milli: self.in_flight_milli,
                draining: self.draining,
                age_milliseconds: u64::try_from(age).unwrap_or(u64::MAX),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    fn load(in_flight_milli: u64) -> Load {
        Load {
            in_flight_milli,
            ..Load::default()
        }
    }

    /// Replicas and their reports, in thousandths; `None` if the stream has ended.
    fn next(watch: &mut LoadWatch) -> Option<Vec<(String, Option<u64>)>> {
        let batch = watch.next().now_or_never()?;
        let shown = |r: Replica| (r.uid, r.report.map(|r| r.in_flight_milli));
        Some(batch.into_iter().map(shown).collect())
    }

    fn one(uid: &str, load: Option<u64>) -> Option<Vec<(String, Option<u64>)>> {
        Some(vec![(uid.to_owned(), load)])
    }

    #[test]
    fn slow_watch_gets_the_newest_of_each_replica() {
        let loads = Arc::new(Loads::default());
        let mut early = loads.watch().unwrap();
        assert_eq!(
            next(&mut early),
            Some(Vec::new()),
            "the first word may be that there is none"
        );
        assert_eq!(next(&mut early), None);
        let [a, b] = ["a", "b"].map(|uid| loads.stream("shop", "waypoint", uid));
        b.report(&load(1));
        for n in 0..1000 {
            a.report(&load(n));
        }
        drop(b);
        assert_eq!(next(&mut early), one("a", Some(999)), "b came and went unseen");
        assert_eq!(next(&mut early), None);
        let mut late = loads.watch().unwrap();
        assert_eq!(next(&mut late), one("a", Some(999)));
        drop(a);
        assert_eq!(next(&mut early), one("a", None));
        assert_eq!(next(&mut late), one("a", None));
    }

    #[test]
    fn newest_stream_of_a_replica_counts() {
        let loads = Arc::new(Loads::default());
        let mut watch = loads.watch().unwrap();
        let old = loads.stream("shop", "waypoint", "a");
        old.report(&load(1));
        let new = loads.stream("shop", "waypoint", "a");
        new.report(&load(2));
        old.report(&load(3));
        drop(old);
        assert_eq!(next(&mut watch), one("a", Some(2)));
        drop(new);
        assert_eq!(next(&mut watch), one("a", None));
    }

    #[test]
    fn excess_is_told_once_to_the_newest_stream() {
        let loads = Arc::new(Loads::default());
        let excess = |uid: &str| (uid.to_owned(), 700);
        loads.spread([excess("a")]);
        let old = loads.stream("shop", "waypoint", "a");
        assert_eq!(old.report(&load(1)), 0, "it had not reported here");
        let new = loads.stream("shop", "waypoint", "a");
        loads.spread([excess("a"), excess("b")]);
        assert_eq!((new.report(&load(2)), new.report(&load(2))), (700, 0));
        loads.spread([excess("a")]);
        assert_eq!((old.report(&load(1)), new.report(&load(2))), (0, 700));
    }

    #[test]
    fn replicas_are_sent_in_batches() {
        let loads = Arc::new(Loads::default());
        let streams: Vec<_> = (0..=BATCH)
            .map(|n| loads.stream("shop", "waypoint", &n.to_string()))
            .collect();
        for stream in &streams {
            stream.report(&load(1));
        }
        let mut watch = loads.watch().unwrap();
        let sizes = [next(&mut watch), next(&mut watch), next(&mut watch)].map(|b| b.map(|b| b.len()));
        assert_eq!(sizes, [Some(BATCH), Some(1), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn report_has_its_age() {
        let loads = Arc::new(Loads::default());
        let stream = loads.stream("shop", "waypoint", "a");
        stream.report(&load(1));
        tokio::time::advance(Duration::from_millis(1500)).await;
        let batch = loads.watch().unwrap().next().await;
        assert_eq!(batch[0].report.as_ref().unwrap().age_milliseconds, 1500);
        assert_eq!((&*batch[0].namespace, &*batch[0].waypoint), ("shop", "waypoint"));
    }

    #[test]
    fn watches_are_limited() {
        let loads = Arc::new(Loads::default());
        let mut all: Vec<_> = (0..WATCHES).map(|_| loads.watch().unwrap()).collect();
        assert!(loads.watch().is_none());
        all.pop();
        assert!(loads.watch().is_some());
    }
}
