//! Which streams of a connection have something to be taken out of h2.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// A stream that takes out of h2 what has arrived on it.
pub trait Absorb: Send + Sync {
    /// Takes all of it.
    fn absorb(&self);
}

/// The turns of the task that drives a connection. After each one, what has arrived is with its streams: it is counted, it takes hardly
/// more memory than its payload, and it is no small frame that h2 would end the connection for.
#[derive(Clone, Default)]
pub struct Turns(Arc<Shared>);

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

/// Kept by the task that drives a connection. From its end on, readers take what is left out of h2 themselves.
#[derive(Debug)]
pub struct Turning(Turns);

impl Drop for Turning {
    fn drop(&mut self) {
        let shared = &*self.0.0;
        {
            let _ready = shared.ready.lock();
            shared.ended.store(true, Ordering::SeqCst);
        }
        shared.absorb();
    }
}

#[derive(Default)]
struct Shared {
    task: AtomicWaker,
    /// A turn is under way, which ends by looking at `ready`.
    turning: AtomicBool,
    /// There will be no more turns.
    ended: AtomicBool,
    ready: Mutex<Vec<Arc<Arrival>>>,
}

impl Turns {
    /// To be dropped at the end of the connection.
    pub fn turning(&self) -> Turning {
        Turning(self.clone())
    }

    /// Polls the connection, and takes out of h2 what has arrived.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        connection: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let shared = &*self.0;
        shared.task.register(cx.waker());
        shared.turning.store(true, Ordering::SeqCst);
        let polled = connection(cx);
        shared.absorb();
        shared.turning.store(false, Ordering::SeqCst);
        // Of one that came in between nobody was notified.
        shared.absorb();
        polled
    }

    /// The waker of a stream that something arrives on, and that somebody reads.
    pub fn arrival(&self, stream: Weak<dyn Absorb>, reader: Arc<AtomicWaker>) -> Waker {
        let arrival = Arrival {
            stream,
            reader,
            connection: Arc::clone(&self.0),
            queued: AtomicBool::new(false),
        };
        Arc::new(arrival).into()
    }
}

impl Shared {
    fn absorb(&self) {
        loop {
            let ready = std::mem::take(&mut *self.ready.lock());
            if ready.is_empty() {
                return;
            }
            for arrival in ready {
                arrival.queued.store(false, Ordering::SeqCst);
                if let Some(stream) = arrival.stream.upgrade() {
                    stream.absorb();
                }
            }
        }
    }
}

/// Wakes the connection's task for one of its streams. h2 holds it, and wakes it under a lock of its own; so it takes no lock under
/// which h2 is called, and does not keep the stream.
struct Arrival {
    stream: Weak<dyn Absorb>,
    reader: Arc<AtomicWaker>,
    connection: Arc<Shared>,
    queued: AtomicBool,
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut ready = self.connection.ready.lock();
        if self.connection.ended.load(Ordering::SeqCst) {
            drop(ready);
            self.queued.store(false, Ordering::SeqCst);
            return self.reader.wake();
        }
        ready.push(Arc::clone(self));
        drop(ready);
        if !self.connection.turning.load(Ordering::SeqCst) {
            self.connection.task.wake();
        }
    }
}
