//! A CONNECT stream as bytes to read and write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outgoing::Sender;
use super::places::StreamPermit;
use super::receiver::Receiver;
use super::{HboneStream, Http2Error};

/// Most bytes that one write takes: flow control hands them out in such portions too.
const LARGEST_WRITE: usize = 64 << 10;

/// An [`HboneStream`] as [`AsyncRead`] and [`AsyncWrite`].
///
/// A shutdown ends what is written and leaves reading open. Dropped before its shutdown the stream is reset (CANCEL), so that the peer
/// does not take a part for the whole; what was written before goes out first. A reset by the peer is an error of kind [`io::ErrorKind::ConnectionReset`].
pub struct HboneIo {
    /// Taken by the end of `self` alone.
    send: Option<Sender>,
    recv: Receiver,
    /// Received and not yet read.
    received: Bytes,
    received_all: bool,
    sent_all: bool,
    permit: Option<StreamPermit>,
}

impl HboneStream {
    /// The stream as bytes to read and write.
    pub fn into_io(self) -> HboneIo {
        HboneIo {
            send: Some(self.send),
            recv: self.recv,
            received: Bytes::new(),
            received_all: false,
            sent_all: false,
            permit: self.permit,
        }
    }
}

impl HboneIo {
    /// Ready when the peer has reset the stream or the connection is gone: nobody reads what is written.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }
}

impl AsyncRead for HboneIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.received.is_empty() && !this.received_all {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => this.received = data,
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => this.received_all = true,
            }
        }
        let n = this.received.len().min(buffer.remaining());
        if n > 0 {
            buffer.put_slice(&this.received[..n]);
            this.received.advance(n);
            // Only now may the peer send more: what waits for a slow reader waits at the sender.
            this.recv.release(n).map_err(failure)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.sent_all {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = data.len().min(LARGEST_WRITE);
        let Some(send) = &mut this.send else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let n = match ready!(send.poll_capacity(cx, wanted)) {
            Some(Ok(capacity)) => capacity,
            Some(Err(error)) => return Poll::Ready(Err(failure(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        send.send(Bytes::copy_from_slice(&data[..n])).map_err(failure)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes what it has as soon as the socket takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sent_all {
            self.sent_all = true;
            if let Some(send) = &mut self.send {
                send.end().map_err(failure)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for HboneIo {
    fn drop(&mut self) {
        if !self.sent_all
            && let Some(send) = self.send.take()
        {
            send.reset_after(Reason::CANCEL, self.permit.take());
        }
    }
}

impl std::fmt::Debug for HboneIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HboneIo")
            .field("id", &self.recv.id())
            .finish_non_exhaustive()
    }
}

fn failure(error: h2::Error) -> io::Error {
    Http2Error::from(error).into()
}
