//! The load of this replica, which it reports to the control plane; the operator scales by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::excess::Excess;

/// Parts of the count of requests. Each thread has one, so that workers do not wait for each other; with more threads than
/// parts, some share one.
const PARTS: usize = 64;

thread_local! {
    /// The part of this thread.
    static PART: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % PARTS
    };
}

/// Requests in flight and connections open.
#[derive(Debug)]
pub(crate) struct Load {
    parts: Box<[Part]>,
    connections: AtomicU32,
    excess: Excess,
}

/// On a cache line of its own, or two: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Part(Mutex<Integral>);

/// Requests in flight, summed up over time. One short critical section for each start and end keeps count and sum
/// consistent.
#[derive(Debug)]
struct Integral {
    now: u64,
    /// Requests since the start.
    started: u64,
    /// Requests times nanoseconds since the last sample, until `changed`.
    sum: u128,
    changed: Instant,
    since: Instant,
}

/// The load since the last sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LoadSample {
    /// Requests in flight, the mean over the time since the last sample, in thousandths.
    pub(crate) in_flight_milli: u64,
    /// Requests since the start.
    pub(crate) requests: u64,
    /// Client connections open now.
    pub(crate) connections: u32,
}

impl Default for Load {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            parts: (0..PARTS).map(|_| Part(Mutex::new(Integral::new(now)))).collect(),
            connections: AtomicU32::new(0),
            excess: Excess::default(),
        }
    }
}

impl Integral {
    fn new(now: Instant) -> Self {
        Self {
            now: 0,
            started: 0,
            sum: 0,
            changed: now,
            since: now,
        }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.changed);
        self.sum += passed.as_nanos() * u128::from(self.now);
        self.changed = self.changed.max(now);
    }

    fn sample(&mut self, now: Instant) -> u64 {
        self.advance(now);
        let passed = now
            .saturating_duration_since(self.since)
            .max(Duration::from_nanos(1));
        let mean = self.sum * 1000 / passed.as_nanos();
        self.sum = 0;
        self.since = now;
        u64::try_from(mean).unwrap_or(u64::MAX)
    }
}

impl Load {
    /// A request or a non-HTTP connection, in flight until this is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> RequestInFlight {
        let (now, part) = (Instant::now(), PART.with(|part| *part));
        let mut integral = self.parts[part].0.lock();
        integral.advance(now);
        integral.now += 1;
        integral.started += 1;
        drop(integral);
        RequestInFlight {
            load: Arc::clone(self),
            part,
            start: now,
        }
    }

    /// A client's connection, open until this is dropped.
    pub(crate) fn connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// The load since the last call.
    pub(crate) fn sample(&self) -> LoadSample {
        let now = Instant::now();
        let (mut in_flight_milli, mut requests) = (0_u64, 0);
        for part in &self.parts {
            let mut integral = part.0.lock();
            in_flight_milli = in_flight_milli.saturating_add(integral.sample(now));
            requests += integral.started;
        }
        LoadSample {
            in_flight_milli,
            requests,
            connections: self.connections(),
        }
    }

    /// What of it is to go to other replicas.
    pub(crate) fn excess(&self) -> &Excess {
        &self.excess
    }

    /// Requests in flight now.
    pub(crate) fn in_flight(&self) -> u64 {
        self.parts.iter().map(|part| part.0.lock().now).sum()
    }

    /// Client connections open now.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct RequestInFlight {
    load: Arc<Load>,
    part: usize,
    start: Instant,
}

impl RequestInFlight {
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut integral = self.load.parts[self.part].0.lock();
        integral.advance(now);
        integral.now -= 1;
    }
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Load>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_weighted_by_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut integral = Integral::new(start);
        // Four in flight for a quarter of the time, and none for the rest.
        integral.advance(at(500));
        integral.now = 4;
        integral.advance(at(750));
        integral.now = 0;
        assert_eq!(integral.sample(at(1000)), 1000);
        // The next sample starts from zero, with the requests that are still in flight.
        integral.now = 3;
        assert_eq!(integral.sample(at(1250)), 3000);
        // Clocks of two threads may be read in one order and counted in the other.
        integral.advance(at(1200));
        assert_eq!(integral.sample(at(1500)), 3000);
    }

    /// Each worker has its own part of the count; what is reported is the whole.
    #[test]
    fn requests_of_all_threads_are_counted() {
        let load = Arc::new(Load::default());
        let requests: Vec<_> = (0..4)
            .map(|_| {
                let load = Arc::clone(&load);
                std::thread::spawn(move || (load.request(), load.request()))
            })
            .map(|thread| thread.join().unwrap())
            .collect();
        let parts = requests.iter().map(|(request, _)| request.part);
        assert!(parts.collect::<std::collections::HashSet<_>>().len() > 1);
        assert_eq!((load.in_flight(), load.sample().requests), (8, 8));
        assert_eq!(
            load.sample().in_flight_milli,
            8000,
            "all were in flight since the last sample"
        );
        // Where a request ends makes no difference.
        drop(requests);
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn requests_and_connections_are_counted_until_dropped() {
        let load = Arc::new(Load::default());
        let (first, second) = (load.request(), load.request());
        let connection = load.connection();
        assert_eq!((load.in_flight(), load.connections()), (2, 1));
        drop((first, connection));
        assert_eq!((load.in_flight(), load.connections()), (1, 0));
        drop(second);
        assert_eq!((load.in_flight(), load.sample().requests), (0, 2));
    }
}
