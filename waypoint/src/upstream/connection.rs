//! One connection to an endpoint.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ambit_hbone::{HboneIo, Payer};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::account::{Account, Unwritten};

/// Bytes that are read at once from a plaintext endpoint, at most: readers let their buffers grow with what they get, and those are not
/// counted.
const LARGEST_READ: usize = 16 << 10;

/// Who pays for what waits on a connection, while it is somebody's.
#[derive(Clone)]
pub(super) struct Payers {
    tunnel: Option<Payer>,
    unwritten: Unwritten,
}

impl Payers {
    pub(super) fn set(&self, account: Option<&Account>) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.set(account.map(Account::payer));
        }
        self.unwritten.set(account);
    }

    /// What is taken from a body to be written.
    pub(super) fn unwritten(&self) -> &Unwritten {
        &self.unwritten
    }
}

/// The bytes of a connection to an endpoint.
pub(crate) struct UpstreamIo {
    transport: Transport,
    payers: Payers,
    /// Bytes that have arrived.
    received: Arc<AtomicU64>,
    rewrite: Rewrite,
}

/// What the next bytes that are written begin with, and what is written instead of them.
pub(super) type Rewrite = Arc<Mutex<Option<(Bytes, Bytes)>>>;

pub(super) enum Transport {
    Hbone(HboneIo),
    Plain(TcpStream),
    #[cfg(feature = "testing")]
    Memory(tokio::io::DuplexStream),
}

impl UpstreamIo {
    pub(super) fn new(transport: Transport) -> Self {
        let tunnel = match &transport {
            Transport::Hbone(io) => Some(io.payer().clone()),
            Transport::Plain(_) => None,
            #[cfg(feature = "testing")]
            Transport::Memory(_) => None,
        };
        let unwritten = Unwritten::default();
        Self {
            payers: Payers { tunnel, unwritten },
            transport,
            received: Arc::default(),
            rewrite: Rewrite::default(),
        }
    }

    /// The place for what is to be written instead of what comes next.
    pub(super) fn rewrite(&self) -> Rewrite {
        Arc::clone(&self.rewrite)
    }

    fn poll_write_transport(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Hbone(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Plain(io) => Pin::new(io).poll_write(cx, buf),
            #[cfg(feature = "testing")]
            Transport::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    /// Who pays for what waits on it.
    pub(super) fn payers(&self) -> Payers {
        self.payers.clone()
    }

    /// What waits on it is this caller's, from now on.
    pub(crate) fn paid_by(&self, account: &Account) {
        self.payers.set(Some(account));
    }

    /// How many bytes have arrived.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.transport {
            Transport::Hbone(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Plain(io) if buf.remaining() > LARGEST_READ => {
                let mut part = [MaybeUninit::uninit(); LARGEST_READ];
                let mut part = ReadBuf::uninit(&mut part);
                let result = Pin::new(io).poll_read(cx, &mut part);
                buf.put_slice(part.filled());
                result
            }
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            #[cfg(feature = "testing")]
            Transport::Memory(io) => Pin::new(io).poll_read(cx, buf),
        };
        let arrived = buf.filled().len() - before;
        if arrived > 0 {
            self.received.fetch_add(arrived as u64, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let rewrite = Arc::clone(&self.rewrite);
        let mut rewrite = rewrite.lock();
        let Some((instead_of, bytes)) = &mut *rewrite else {
            let written = ready!(self.poll_write_transport(cx, buf))?;
            self.payers.unwritten.written(written);
            return Poll::Ready(Ok(written));
        };
        if !buf.starts_with(instead_of) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        while !bytes.is_empty() {
            let n = ready!(self.poll_write_transport(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            bytes.advance(n);
        }
        let taken = instead_of.len();
        *rewrite = None;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all.
        self.payers.unwritten.flushed();
        match &mut self.transport {
            Transport::Hbone(io) => Pin::new(io).poll_flush(cx),
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            #[cfg(feature = "testing")]
            Transport::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Hbone(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(feature = "testing")]
            Transport::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
