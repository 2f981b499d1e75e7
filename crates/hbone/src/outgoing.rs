//! The sending half of a stream: how much of it waits in HTTP/2's queue, and a reset that comes after what waits there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use h2::{Reason, SendStream};
use parking_lot::Mutex;

use super::client::StreamPermit;

/// What a stream may always queue, however much the others of its connection have queued.
const LEAST: usize = 16 << 10;
/// What the streams of one connection queue together before each is held to [`LEAST`]: more would not make the socket faster.
const SHARE: usize = 1 << 20;

/// Bytes on their way through h2, which drops them once they are written or given up.
pub(super) struct Payload {
    data: Bytes,
    size: usize,
    queue: Arc<Queue>,
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, n: usize) {
        self.data.advance(n);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.queue
            .connection
            .queued
            .fetch_sub(self.size, Ordering::SeqCst);
        self.queue.queued.fetch_sub(self.size, Ordering::SeqCst);
        self.queue.waiting.wake();
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What one stream has queued.
#[derive(Debug)]
struct Queue {
    queued: AtomicUsize,
    /// The stream's task, when it waits for room.
    waiting: AtomicWaker,
    connection: Arc<Closing>,
}

/// Streams of one connection whose reset waits for the bytes before it.
#[derive(Debug)]
pub(super) struct Closing {
    /// Bytes that all streams of the connection have queued.
    queued: AtomicUsize,
    /// `None` once the connection has ended.
    streams: Mutex<Option<Vec<LastWords>>>,
}

#[derive(Debug)]
struct LastWords {
    send: SendStream<Payload>,
    queue: Arc<Queue>,
    reason: Reason,
    _permit: Option<StreamPermit>,
}

impl LastWords {
    fn are_written(&self) -> bool {
        self.queue.queued.load(Ordering::SeqCst) == 0
    }
}

/// Kept by the connection's task. Its end gives the streams up that wait: they hold on to the connection, and it to them.
#[derive(Debug)]
pub(super) struct Closer(Arc<Closing>);

impl Closer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Closing {
            queued: AtomicUsize::new(0),
            streams: Mutex::new(Some(Vec::new())),
        }))
    }

    /// What the connection's streams share.
    pub(super) fn shared(&self) -> Arc<Closing> {
        Arc::clone(&self.0)
    }

    /// Resets the streams whose last bytes are written; whether there were any, so that the connection has something to send.
    pub(super) fn reset_written(&self) -> bool {
        let mut streams = self.0.streams.lock();
        let Some(streams) = streams.as_mut().filter(|streams| !streams.is_empty()) else {
            return false;
        };
        let before = streams.len();
        streams.retain_mut(|stream| {
            let written = stream.are_written();
            if written {
                stream.send.send_reset(stream.reason);
            }
            !written
        });
        streams.len() < before
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let given_up = self.0.streams.lock().take();
        drop(given_up);
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub(super) struct Sender {
    send: SendStream<Payload>,
    queue: Arc<Queue>,
}

impl Sender {
    pub(super) fn new(send: SendStream<Payload>, connection: Arc<Closing>) -> Self {
        let queue = Queue {
            queued: AtomicUsize::new(0),
            waiting: AtomicWaker::new(),
            connection,
        };
        Self {
            send,
            queue: Arc::new(queue),
        }
    }

    /// How many of `wanted` bytes may be sent now: one at least. `None` where the stream sends no more.
    pub(super) fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Option<Result<usize, h2::Error>>> {
        if !self.has_room() {
            self.queue.waiting.register(cx.waker());
            if !self.has_room() {
                return Poll::Pending;
            }
        }
        self.send.reserve_capacity(wanted);
        let mut capacity = self.send.capacity();
        while capacity == 0 {
            capacity = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                ended => return Poll::Ready(ended),
            };
        }
        Poll::Ready(Some(Ok(capacity.min(wanted))))
    }

    fn has_room(&self) -> bool {
        self.queue.queued.load(Ordering::SeqCst) < LEAST
            || self.queue.connection.queued.load(Ordering::SeqCst) < SHARE
    }

    pub(super) fn send(&mut self, data: Bytes) -> Result<(), h2::Error> {
        let payload = self.payload(data);
        self.send.send_data(payload, false)
    }

    /// Ends what is sent.
    pub(super) fn end(&mut self) -> Result<(), h2::Error> {
        let payload = self.payload(Bytes::new());
        self.send.send_data(payload, true)
    }

    fn payload(&self, data: Bytes) -> Payload {
        let size = data.len();
        self.queue.queued.fetch_add(size, Ordering::SeqCst);
        self.queue.connection.queued.fetch_add(size, Ordering::SeqCst);
        Payload {
            data,
            size,
            queue: Arc::clone(&self.queue),
        }
    }

    /// Whether the peer has reset the stream, and how.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.send.poll_reset(cx)
    }

    /// Resets the stream once what was sent before is written: h2 forgets what it has queued when it is told to reset. The
    /// stream's place on its connection is given back with it.
    pub(super) fn reset_after(self, reason: Reason, permit: Option<StreamPermit>) {
        let closing = Arc::clone(&self.queue.connection);
        let mut last = LastWords {
            send: self.send,
            queue: self.queue,
            reason,
            _permit: permit,
        };
        let mut streams = closing.streams.lock();
        // Under the lock: either these are written now, or the connection's task finds them when they are.
        if let Some(streams) = streams.as_mut().filter(|_| !last.are_written()) {
            streams.push(last);
        } else {
            last.send.send_reset(reason);
        }
    }
}
