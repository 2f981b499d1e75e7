//! What is to be sent to the agent, while there is one.

use std::sync::Arc;

use ambit_wire::broker::{FromZtunnel, from_ztunnel::Message};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Queues messages for the current connection. Without one they are dropped: a new connection begins with the whole state, and
/// what was asked for and not answered is asked again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    queue: Arc<Mutex<Option<mpsc::UnboundedSender<FromZtunnel>>>>,
}

impl Outbox {
    /// Opens for a new connection.
    pub(super) fn open(&self) -> mpsc::UnboundedReceiver<FromZtunnel> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.queue.lock() = Some(sender);
        receiver
    }

    pub(super) fn close(&self) {
        *self.queue.lock() = None;
    }

    /// Whether the message was queued.
    pub(super) fn send(&self, message: Message) -> bool {
        let queue = self.queue.lock();
        queue.as_ref().is_some_and(|queue| {
            queue
                .send(FromZtunnel {
                    message: Some(message),
                })
                .is_ok()
        })
    }
}

#[cfg(test)]
impl Outbox {
    pub(crate) fn open_for_test(&self) -> mpsc::UnboundedReceiver<FromZtunnel> {
        self.open()
    }
}
