//! The sending half of a stream: how much of it waits in HTTP/2's queue, and a reset that comes after what waits there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use h2::{Reason, SendStream};
use parking_lot::Mutex;

use super::account::Payer;
use super::memory::{Borrower, Loan};
use super::places::StreamPermit;

/// What a stream may always queue, however much the others of its connection have queued.
const LEAST: usize = 16 << 10;
/// The same while the stream's account is short.
const LEAST_WHILE_SHORT: usize = 4 << 10;
/// What the streams of one connection queue together before each is held to [`LEAST`], while memory is lent for it: more would not make the
/// socket faster.
const SHARE: usize = 256 << 10;

/// Bytes on their way through h2, which drops them once they are written or given up.
pub(super) struct Payload {
    data: Bytes,
    size: usize,
    queue: Arc<Queue>,
    /// Where it is more than the stream may queue by right.
    _loan: Option<Arc<Loan>>,
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
        self.queue.payer.release(self.size);
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
    payer: Payer,
}

/// Streams of one connection whose reset waits for the bytes before it.
#[derive(Debug)]
pub(super) struct Closing {
    /// Bytes that all streams of the connection have queued.
    queued: AtomicUsize,
    memory: Borrower,
    /// For all that is queued and more than what each stream may queue by right.
    loan: Mutex<Weak<Loan>>,
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

impl Closing {
    /// For all streams of the connection together, while any of them has queued more than it may by right.
    fn lend(&self) -> Option<Arc<Loan>> {
        let mut loan = self.loan.lock();
        if let Some(loan) = loan.upgrade() {
            return Some(loan);
        }
        let new = Arc::new(self.memory.borrow(SHARE)?);
        *loan = Arc::downgrade(&new);
        Some(new)
    }
}

/// Kept by the connection's task. Its end gives the streams up that wait: they hold on to the connection, and it to them.
#[derive(Debug)]
pub(super) struct Closer(Arc<Closing>);

impl Closer {
    pub(super) fn new(memory: Borrower) -> Self {
        Self(Arc::new(Closing {
            queued: AtomicUsize::new(0),
            memory,
            loan: Mutex::default(),
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
    /// For what is sent next.
    loan: Option<Arc<Loan>>,
}

impl Sender {
    pub(super) fn new(send: SendStream<Payload>, connection: Arc<Closing>) -> Self {
        let queue = Queue {
            queued: AtomicUsize::new(0),
            waiting: AtomicWaker::new(),
            connection,
            payer: Payer::default(),
        };
        Self {
            send,
            queue: Arc::new(queue),
            loan: None,
        }
    }

    /// How many of `wanted` bytes may be sent now: one at least. `None` where the stream sends no more. They are sent, or
    /// [given up](Self::give_up), before others of the connection ask.
    pub(super) fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Option<Result<usize, h2::Error>>> {
        let mut room = self.room(wanted);
        if room == 0 {
            self.queue.waiting.register(cx.waker());
            room = self.room(wanted);
            if room == 0 {
                return Poll::Pending;
            }
        }
        let wanted = wanted.min(room);
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

    /// How many of `wanted` bytes may be queued.
    fn room(&mut self, wanted: usize) -> usize {
        let queued = self.queue.queued.load(Ordering::SeqCst);
        self.loan = None;
        if self.queue.payer.is_short() {
            return wanted.min(LEAST_WHILE_SHORT.saturating_sub(queued));
        }
        let by_right = LEAST.saturating_sub(queued);
        if wanted <= by_right {
            return wanted;
        }
        let connection = &self.queue.connection;
        let shared = SHARE.saturating_sub(connection.queued.load(Ordering::SeqCst));
        if shared > by_right {
            self.loan = connection.lend();
        }
        match &self.loan {
            Some(_) => wanted.min(shared),
            None => by_right,
        }
    }

    /// Whose account queued bytes go on.
    pub(super) fn payer(&self) -> Payer {
        self.queue.payer.clone()
    }

    /// Sends nothing now.
    pub(super) fn give_up(&mut self) {
        self.loan = None;
        self.send.reserve_capacity(0);
    }

    pub(super) fn send(&mut self, data: Bytes) -> Result<(), h2::Error> {
        let loan = self.loan.take();
        let payload = self.payload(data, loan);
        self.send.send_data(payload, false)
    }

    /// Ends what is sent.
    pub(super) fn end(&mut self) -> Result<(), h2::Error> {
        let payload = self.payload(Bytes::new(), None);
        self.send.send_data(payload, true)
    }

    fn payload(&self, data: Bytes, loan: Option<Arc<Loan>>) -> Payload {
        let size = data.len();
        self.queue.queued.fetch_add(size, Ordering::SeqCst);
        self.queue.connection.queued.fetch_add(size, Ordering::SeqCst);
        self.queue.payer.hold_anyway(size);
        Payload {
            data,
            size,
            queue: Arc::clone(&self.queue),
            _loan: loan,
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
