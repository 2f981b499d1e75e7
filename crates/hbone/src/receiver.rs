//! The receiving half of a stream, and what it may hold.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;

use super::backlog::Backlog;
use super::windows::{Credit, Run};

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    recv: RecvStream,
    /// What has been collected.
    backlog: Backlog,
    end: Option<Option<h2::Error>>,
    run: Run,
    // After the stream: what it holds is freed first.
    credit: Arc<Credit>,
}

impl Receiver {
    pub(super) fn new(recv: RecvStream, credit: Arc<Credit>) -> Self {
        Self {
            recv,
            backlog: Backlog::default(),
            end: None,
            run: Run::new(),
            credit,
        }
    }

    /// What the peer may still send, as far as it has been told.
    pub(super) fn window(&mut self) -> isize {
        self.recv.flow_control().available_capacity()
    }

    pub(super) fn id(&self) -> h2::StreamId {
        self.recv.stream_id()
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(data) = self.backlog.pop() {
            return Poll::Ready(Some(Ok(data)));
        }
        match self.end.take() {
            Some(end) => Poll::Ready(end.map(Err)),
            None => self.poll_recv(cx),
        }
    }

    /// Takes what has come off h2's hands, as many small frames would fill them, and is woken when more comes.
    pub(super) fn collect(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() {
            match self.poll_recv(cx) {
                Poll::Ready(Some(Ok(data))) => self.backlog.push(data),
                Poll::Ready(Some(Err(error))) => self.end = Some(Some(error)),
                Poll::Ready(None) => self.end = Some(None),
                Poll::Pending => break,
            }
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
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
        if self.credit.settle(|| recv.flow_control().used_capacity()) {
            // Its window may be below nothing now, though all was read. h2 tells the peer of what was read before only when something is
            // released, and nothing would come that could be.
            let _ = recv.flow_control().release_capacity(0);
        }
    }
}
