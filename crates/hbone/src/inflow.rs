//! The receiving half of a stream that is read as bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::account::Payer;
use super::backlog::Backlog;
use super::error::failure;
use super::receiver::Receiver;
use super::turns::{Absorb, Turns};

/// What a peer may still send on a stream while there is little room: it is not stopped altogether, since what it sends may be what
/// makes room.
const LEAST_WINDOW: isize = 16 << 10;

/// Bytes that one read takes at most: readers let their buffers grow with what they get, and those are not counted.
const LARGEST_READ: usize = 16 << 10;

/// What arrives on a stream. The task of the connection takes it out of h2 as it comes, where it is counted.
pub(super) struct Inflow(Arc<Stream>);

struct Stream {
    state: Mutex<State>,
    arrival: Waker,
    reader: Arc<AtomicWaker>,
    payer: Payer,
    /// Who waits for its failure.
    watcher: AtomicWaker,
}

struct State {
    recv: Receiver,
    backlog: Backlog,
    /// What the reader takes at the moment.
    current: Bytes,
    /// Bytes of the backlog and of `current`.
    held: usize,
    /// How it ended, to be said once all before has been read.
    end: Option<io::Result<()>>,
    /// Read, and not given back to the peer's window.
    owed: usize,
    failed: bool,
}

/// Resolves when a stream has failed on the peer's side, though what came before has not been read: the peer has reset it, its connection
/// is gone, or there was no room for what came. Never after an end as it should be.
pub struct Gone(Arc<Stream>);

impl Future for Gone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.watcher.register(cx.waker());
        match self.0.state.lock().failed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gone")
    }
}

impl Inflow {
    pub(super) fn new(recv: Receiver, turns: &Turns, payer: Payer) -> Self {
        let state = State {
            recv,
            backlog: Backlog::default(),
            current: Bytes::new(),
            held: 0,
            end: None,
            owed: 0,
            failed: false,
        };
        let reader = Arc::<AtomicWaker>::default();
        let stream = Arc::new_cyclic(|weak: &std::sync::Weak<Stream>| Stream {
            state: Mutex::new(state),
            arrival: turns.arrival(weak.clone(), Arc::clone(&reader)),
            reader,
            payer,
            watcher: AtomicWaker::new(),
        });
        stream.absorb();
        Self(stream)
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &*self.0;
        let mut state = stream.state.lock();
        if state.current.is_empty() {
            if state.backlog.is_empty() && state.end.is_none() {
                stream.reader.register(cx.waker());
                stream.take(&mut state);
            }
            match state.backlog.pop() {
                Some(data) => state.current = data,
                None => return state.poll_end(),
            }
        }
        let n = state.current.len().min(buffer.remaining()).min(LARGEST_READ);
        buffer.put_slice(&state.current[..n]);
        state.current.advance(n);
        state.held -= n;
        stream.payer.release(n);
        // Only now may the peer send more: what waits for a slow reader waits at the sender.
        state.owed += n;
        if state.recv.window() > LEAST_WINDOW && stream.payer.is_short() {
            return Poll::Ready(Ok(()));
        }
        let owed = std::mem::take(&mut state.owed);
        let released = state.recv.release(owed);
        Poll::Ready(released.map_err(failure))
    }

    pub(super) fn gone(&self) -> Gone {
        Gone(Arc::clone(&self.0))
    }

    pub(super) fn id(&self) -> h2::StreamId {
        self.0.state.lock().recv.id()
    }
}

impl Stream {
    /// Takes out of h2 what it has; whether there was any.
    fn take(&self, state: &mut State) -> bool {
        let mut cx = Context::from_waker(&self.arrival);
        let mut arrived = false;
        while state.end.is_none() {
            match state.recv.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(data))) if self.payer.hold(data.len()) => {
                    state.held += data.len();
                    if !data.is_empty() {
                        state.backlog.push(data);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {
                    // Its window stays as it is, so that no more than that comes before the reader gives it up.
                    self.payer.release(state.held);
                    (state.backlog, state.current, state.held) = (Backlog::default(), Bytes::new(), 0);
                    state.end = Some(Err(io::ErrorKind::OutOfMemory.into()));
                }
                Poll::Ready(Some(Err(error))) => state.end = Some(Err(failure(error))),
                Poll::Ready(None) => state.end = Some(Ok(())),
                Poll::Pending => break,
            }
            arrived = true;
        }
        if matches!(state.end, Some(Err(_))) && !state.failed {
            state.failed = true;
            self.watcher.wake();
        }
        arrived
    }
}

impl State {
    fn poll_end(&mut self) -> Poll<io::Result<()>> {
        match &mut self.end {
            None => Poll::Pending,
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(()))),
        }
    }
}

impl Absorb for Stream {
    fn absorb(&self) {
        if self.take(&mut self.state.lock()) {
            self.reader.wake();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.payer.release(self.state.get_mut().held);
    }
}
