//! A CONNECT stream as bytes to read and write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HboneStream;
use super::account::Payer;
use super::error::failure;
use super::inflow::{Gone, Inflow};
use super::outgoing::Sender;
use super::places::StreamPermit;

/// Most bytes that one write takes: flow control hands them out in such portions too.
const LARGEST_WRITE: usize = 64 << 10;

/// An [`HboneStream`] as [`AsyncRead`] and [`AsyncWrite`].
///
/// A shutdown ends what is written and leaves reading open. Dropped before its shutdown the stream is reset (CANCEL), so that the peer
/// does not take a part for the whole; what was written before goes out first. A reset by the peer is an error of kind
/// [`io::ErrorKind::ConnectionReset`].
///
/// What waits here, received or written, goes on the account of its [`Payer`]. Where that has no room for what arrives, the stream fails
/// with [`io::ErrorKind::OutOfMemory`].
pub struct HboneIo {
    /// Taken by the end of `self` alone.
    send: Option<Sender>,
    recv: Inflow,
    sent_all: bool,
    permit: Option<StreamPermit>,
    payer: Payer,
}

impl HboneStream {
    /// The stream as bytes to read and write.
    pub fn into_io(self) -> HboneIo {
        let payer = self.send.payer();
        HboneIo {
            send: Some(self.send),
            recv: Inflow::new(self.recv, &self.turns, payer.clone()),
            sent_all: false,
            permit: self.permit,
            payer,
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

    /// Resolves when the peer has reset the stream, though what it sent before has not been read.
    pub fn gone(&self) -> Gone {
        self.recv.gone()
    }

    /// Whose account its bytes go on.
    pub fn payer(&self) -> &Payer {
        &self.payer
    }
}

impl AsyncRead for HboneIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.recv.poll_read(cx, buffer)
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
