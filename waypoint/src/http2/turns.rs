//! Which streams of a connection have something to be taken out of h2.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::inflow::Stream;

/// The turns of the task that drives a connection. After each one, what has arrived is with its streams.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Shared>);

#[derive(Default)]
struct Shared {
    task: AtomicWaker,
    /// A turn is under way, which ends by looking at `ready`.
    turning: AtomicBool,
    ready: Mutex<Vec<Arc<Arrival>>>,
}

impl Turns {
    /// Polls the connection, and takes out of h2 what has arrived.
    pub(crate) fn poll<T>(
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

    /// The waker of a stream that something arrives on.
    pub(super) fn arrival(&self, stream: Weak<Stream>) -> Arc<Arrival> {
        Arc::new(Arrival {
            stream,
            connection: Arc::clone(&self.0),
            queued: AtomicBool::new(false),
        })
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
pub(super) struct Arrival {
    stream: Weak<Stream>,
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
        self.connection.ready.lock().push(Arc::clone(self));
        if !self.connection.turning.load(Ordering::SeqCst) {
            self.connection.task.wake();
        }
    }
}
