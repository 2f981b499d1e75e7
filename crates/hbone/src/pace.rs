//! When a connection's task takes its turn.

use std::task::{Context, Poll};

/// Streams from which on a connection waits for the other tasks that are ready.
const BUSY: usize = 2;

/// Lets a busy connection's task take its turn after the tasks of its streams that are ready too, so that what they all have to
/// send goes out with one system call and in few TLS records. Without it each of them wakes the connection, which runs at once,
/// and pays for a write of its own. A connection with one stream never waits.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: bool,
}

impl Pace {
    /// Pending once, to be polled again when the others have run.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>, streams: usize) -> Poll<()> {
        self.waited = !self.waited && streams >= BUSY;
        if self.waited {
            // To the end of the scheduler's queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}
