//! The receiving half of a stream, and what it may hold.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;

use super::windows::{Credit, Run};

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    recv: RecvStream,
    run: Run,
    // After the stream: what it holds is freed first.
    credit: Arc<Credit>,
}

impl Receiver {
    pub(super) fn new(recv: RecvStream, credit: Arc<Credit>) -> Self {
        Self {
            recv,
            run: Run::new(),
            credit,
        }
    }

    pub(super) fn id(&self) -> h2::StreamId {
        self.recv.stream_id()
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = self.recv.poll_data(cx);
        if polled.is_pending() {
            self.credit.waits(cx);
            self.settle();
        }
        polled
    }

    /// So many bytes have been read, and the peer may send as many more: until then it holds them.
    pub(super) fn release(&mut self, bytes: usize) -> Result<(), h2::Error> {
        self.recv.flow_control().release_capacity(bytes)?;
        self.run.read(bytes, &self.credit);
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        let recv = &mut self.recv;
        self.credit.settle(|| recv.flow_control().used_capacity());
    }
}
