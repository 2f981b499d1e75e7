//! The places for streams of one connection, as its client counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// What the pool and the connection's task share. The task holds only this, so that the connection ends when the pool and
/// all streams have let go of it.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// Takes no new streams.
    closed: AtomicBool,
    streams: AtomicU32,
    max_streams: u32,
    idle_since: Mutex<Instant>,
    /// The peer has said how many streams it allows, or the connection has ended.
    settled: watch::Sender<bool>,
    /// The end of the certificates, own and the peer's: no new stream after it.
    expires: SystemTime,
}

// `closed` and `streams` are ordered among each other (SeqCst): of a stream that is being reserved and the end of an idle
// connection, one sees the other.
impl ConnectionState {
    pub(super) fn new(max_streams: u32, expires: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            closed: AtomicBool::new(false),
            streams: AtomicU32::new(0),
            max_streams: max_streams.max(1),
            idle_since: Mutex::new(Instant::now()),
            settled: watch::Sender::new(false),
            expires,
        })
    }

    /// A place, if the connection takes streams and has one left of those that its peer allows.
    pub(super) fn reserve(self: &Arc<Self>, allowed: u32) -> Option<StreamPermit> {
        let most = self.max_streams.min(allowed);
        let place = |n| (n < most).then_some(n + 1);
        self.streams
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, place)
            .ok()?;
        let permit = StreamPermit(Arc::clone(self));
        // Last: once a stream is counted here, the connection's task does not take it for idle.
        self.is_open().then_some(permit)
    }

    /// How many places are taken.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed) as usize
    }

    /// The peer has said how many streams it allows, or never will.
    pub(super) fn settle(&self) {
        self.settled.send_replace(true);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst) && SystemTime::now() < self.expires
    }

    /// Told when the peer has said how many streams it allows; `None` if it has.
    pub(super) fn unsettled(&self) -> Option<watch::Receiver<bool>> {
        (!*self.settled.borrow()).then(|| self.settled.subscribe())
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams.load(Ordering::SeqCst) > 0
    }

    pub(super) fn has_been_idle(&self, timeout: Duration) -> bool {
        !self.has_streams() && self.idle_since.lock().elapsed() >= timeout
    }
}

/// A stream's place on its connection.
#[derive(Debug)]
pub(super) struct StreamPermit(Arc<ConnectionState>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            *self.0.idle_since.lock() = Instant::now();
        }
    }
}
