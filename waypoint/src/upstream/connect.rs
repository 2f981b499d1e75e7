//! One connection to an endpoint.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ambit_hbone::{ConnectError, HboneIo, OpenError, Payer, PoolKey};
use ambit_runtime::prepare_socket;
use bytes::{Buf, Bytes};
use http::StatusCode;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Destination, Upstream};
use crate::account::{Account, Unwritten};

/// How long what was sent to a plaintext endpoint may stay without an acknowledgement: then its node is gone, and the connection fails.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why there is no connection to the application. It has seen nothing of the request.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error("{0}")]
    Tunnel(#[from] OpenError),
    #[error("connecting to {0}: {1}")]
    Tcp(SocketAddr, Arc<io::Error>),
    #[error("no connection to {to} within {}s", .waited.as_secs_f32())]
    Timeout { to: SocketAddr, waited: Duration },
}

impl ConnectFailure {
    /// Whether nobody was there, whoever had come: such an endpoint is avoided for a while.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Tcp(..) | Self::Timeout { .. } => true,
            Self::Tunnel(OpenError::Refused(status)) => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Tunnel(OpenError::Connect(error)) => !matches!(
                error,
                ConnectError::Tls { .. } | ConnectError::Certificate { .. } | ConnectError::Closed
            ),
            Self::Tunnel(_) => true,
        }
    }

    /// In a few words, for the caller: no addresses.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Tcp(_, error) => brief(error),
            Self::Timeout { .. } | Self::Tunnel(OpenError::Connect(ConnectError::Timeout { .. })) => {
                "connecting timed out".to_owned()
            }
            Self::Tunnel(OpenError::Connect(ConnectError::Dial { error, .. })) => brief(error),
            Self::Tunnel(OpenError::Connect(ConnectError::Tls { .. })) => "TLS failed".to_owned(),
            Self::Tunnel(OpenError::Connect(ConnectError::Certificate { .. })) => {
                "the waypoint has no certificate".to_owned()
            }
            Self::Tunnel(OpenError::Connect(ConnectError::Closed)) => {
                "the waypoint is shutting down".to_owned()
            }
            // What a ztunnel says when the application does not take the connection.
            Self::Tunnel(OpenError::Refused(StatusCode::SERVICE_UNAVAILABLE)) => {
                "connection refused".to_owned()
            }
            Self::Tunnel(OpenError::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                "the destination's policy denies the waypoint".to_owned()
            }
            Self::Tunnel(OpenError::Refused(status)) => format!("the destination's proxy answered {status}"),
            Self::Tunnel(OpenError::ResponseTimeout(_)) => {
                "the destination's proxy does not answer".to_owned()
            }
            Self::Tunnel(_) => "the connection to the destination's proxy failed".to_owned(),
        }
    }
}

fn brief(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "connecting timed out".to_owned(),
        kind => kind.to_string(),
    }
}

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

enum Transport {
    Hbone(HboneIo),
    Plain(TcpStream),
    #[cfg(feature = "testing")]
    Memory(tokio::io::DuplexStream),
}

impl UpstreamIo {
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

impl Upstream {
    /// A new connection to the application.
    pub(crate) async fn connect(&self, to: &Destination) -> Result<UpstreamIo, ConnectFailure> {
        let transport = self.transport(to).await?;
        let tunnel = match &transport {
            Transport::Hbone(io) => Some(io.payer().clone()),
            Transport::Plain(_) => None,
            #[cfg(feature = "testing")]
            Transport::Memory(_) => None,
        };
        let unwritten = Unwritten::default();
        Ok(UpstreamIo {
            payers: Payers { tunnel, unwritten },
            transport,
            received: Arc::default(),
            rewrite: Rewrite::default(),
        })
    }

    async fn transport(&self, to: &Destination) -> Result<Transport, ConnectFailure> {
        #[cfg(feature = "testing")]
        if let Some(memory) = self.in_memory() {
            return Ok(Transport::Memory(memory));
        }
        Ok(if let Some(address) = to.hbone {
            let key = PoolKey {
                source: self.lease.identity().clone(),
                destination: [to.identity.clone()].into(),
                address,
                workload: Arc::clone(&to.workload),
                pod: Arc::clone(&self.here),
            };
            let authority = to.address.to_string().parse().map_err(|error| {
                // An address and port always are an authority; this only keeps the data path free of panics.
                ConnectFailure::Tcp(
                    to.address,
                    Arc::new(io::Error::other::<http::uri::InvalidUri>(error)),
                )
            })?;
            let stream = self
                .hbone
                .open(&key, &self.lease, &authority, || dial(address))
                .await?;
            Transport::Hbone(stream.into_io())
        } else {
            let failed = |error| ConnectFailure::Tcp(to.address, Arc::new(error));
            let tcp = tokio::time::timeout(self.connect_timeout, dial(to.address))
                .await
                .map_err(|_| ConnectFailure::Timeout {
                    to: to.address,
                    waited: self.connect_timeout,
                })?
                .map_err(failed)?;
            // Over HBONE, PINGs find out that a node is gone.
            SockRef::from(&tcp)
                .set_tcp_user_timeout(Some(UNACKNOWLEDGED))
                .map_err(failed)?;
            Transport::Plain(tcp)
        })
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(to).await?;
    prepare_socket(&tcp)?;
    Ok(tcp)
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
