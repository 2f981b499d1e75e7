//! Sockets of a pod's network namespace, made without privileges and without the node agent, from the seeds that it
//! passed.
//!
//! A *seed listener* on the pod's loopback is transparent and has the proxy's mark; accepted sockets inherit both. The
//! ztunnel connects to it, accepts, and disconnects with `connect(AF_UNSPEC)`: the result is an unconnected socket of
//! that namespace. A used socket is disconnected and used again.

mod handed;
mod maker;

use std::borrow::{Borrow, BorrowMut};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounterVec;
use rustix::net::connect_unspec;
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

use crate::limits::{Budget, BudgetPermit};
pub(crate) use handed::{Handed, Seed};
use maker::Maker;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("the pod has no IPv{0}")]
    NoFamily(u8),
    #[error("no socket could be made in the pod: {0}")]
    Make(#[source] io::Error),
    #[error("no socket could be made in the pod within {}s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the pod is being released")]
    Closed,
}

/// Shared state of the socket caches of all pods.
#[derive(Debug, Clone)]
pub(crate) struct StoreLimits {
    /// Idle sockets of one pod and IP version.
    pub(crate) most: usize,
    /// Idle sockets in total. Past either limit a socket is closed after use, and counted.
    pub(crate) idle: Budget,
    /// `made`, `reused`, `closed`.
    pub(crate) counter: IntCounterVec,
}

/// A pod's sockets.
#[derive(Debug)]
pub(crate) struct PodSockets {
    v4: Arc<Store>,
    v6: Arc<Store>,
}

#[derive(Debug)]
struct Store {
    state: Mutex<State>,
    limits: StoreLimits,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<(Socket, BudgetPermit)>,
    maker: Option<Arc<Maker>>,
    closed: bool,
}

impl PodSockets {
    pub(crate) fn new(seeds: &[Arc<Seed>], limits: &StoreLimits) -> Self {
        let store = || {
            Arc::new(Store {
                state: Mutex::default(),
                limits: limits.clone(),
            })
        };
        let this = Self {
            v4: store(),
            v6: store(),
        };
        this.replace(seeds);
        this
    }

    /// Makes sockets from these seeds (IPv4, then IPv6) from now on.
    pub(crate) fn replace(&self, seeds: &[Arc<Seed>]) {
        for (store, seed) in [&self.v4, &self.v6].into_iter().zip(seeds) {
            let mut state = store.state.lock();
            if !state.closed {
                state.maker = Some(Arc::new(Maker::new(Arc::clone(seed))));
            }
        }
    }

    /// A socket for connecting to `address`.
    pub(crate) async fn take(&self, address: IpAddr, timeout: Duration) -> Result<PodSocket, SocketError> {
        let (store, version) = match address {
            IpAddr::V4(_) => (&self.v4, 4),
            IpAddr::V6(_) => (&self.v6, 6),
        };
        let maker = {
            let mut state = store.state.lock();
            if state.closed {
                return Err(SocketError::Closed);
            }
            if let Some((socket, _)) = state.idle.pop() {
                store.count("reused");
                return Ok(PodSocket::new(socket, store));
            }
            state.maker.clone().ok_or(SocketError::NoFamily(version))?
        };
        let made = tokio::time::timeout(timeout, maker.make()).await;
        let socket = made
            .map_err(|_| SocketError::Timeout(timeout))?
            .map_err(SocketError::Make)?;
        store.count("made");
        Ok(PodSocket::new(socket, store))
    }

    /// Closes seeds and idle sockets, since an open socket keeps the network namespace of an ended pod alive.
    pub(crate) fn close(&self) {
        for store in [&self.v4, &self.v6] {
            *store.state.lock() = State {
                closed: true,
                ..State::default()
            };
        }
    }

    #[cfg(test)]
    fn idle(&self) -> usize {
        [&self.v4, &self.v6]
            .map(|store| store.state.lock().idle.len())
            .iter()
            .sum()
    }
}

impl Store {
    /// Takes back a socket without a connection, or with one that is no longer needed.
    fn give_back(&self, socket: Socket) {
        // The other options are set anew for each connection.
        let ready = connect_unspec(&socket).is_ok()
            && socket.set_linger(None).is_ok()
            && socket.set_tcp_notsent_lowat(0).is_ok();
        let mut state = self.state.lock();
        if !ready || state.closed {
            return;
        }
        let place = (state.idle.len() < self.limits.most)
            .then(|| self.limits.idle.take(1))
            .flatten();
        match place {
            Some(permit) => state.idle.push((socket, permit)),
            None => self.count("closed"),
        }
    }

    fn count(&self, what: &str) {
        self.limits.counter.with_label_values(&[what]).inc();
    }
}

/// An unconnected socket; dropping it returns it to its cache.
#[derive(Debug)]
pub(crate) struct PodSocket {
    socket: Option<Socket>,
    store: Arc<Store>,
}

impl PodSocket {
    fn new(socket: Socket, store: &Arc<Store>) -> Self {
        Self {
            socket: Some(socket),
            store: Arc::clone(store),
        }
    }

    /// Begins to connect, from the address `from` (which may be another host's) or, if that is unspecified, from the
    /// pod's own. Returns the local address.
    pub(crate) fn begin(&self, from: IpAddr, to: SocketAddr) -> io::Result<Option<SocketAddr>> {
        let Some(socket) = &self.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        // Always: a socket accepted from the seed listener would otherwise send from the loopback address.
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(socket.local_addr()?.as_socket())
    }

    /// Waits until the connection is established.
    pub(crate) async fn established(mut self) -> io::Result<PodStream> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let socket = self.socket.take().ok_or_else(gone)?;
        let mut connecting = Connecting {
            tcp: Some(TcpStream::from_std(socket.into())?),
            store: Arc::clone(&self.store),
        };
        let tcp = connecting.tcp.as_ref().ok_or_else(gone)?;
        tcp.writable().await?;
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        Ok(PodStream {
            tcp: connecting.tcp.take().ok_or_else(gone)?,
            store: Arc::clone(&self.store),
        })
    }
}

impl Drop for PodSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.store.give_back(socket);
        }
    }
}

/// A connection that is not established yet; when it is given up, its socket returns to the cache.
struct Connecting {
    tcp: Option<TcpStream>,
    store: Arc<Store>,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(Ok(tcp)) = self.tcp.take().map(TcpStream::into_std) {
            self.store.give_back(tcp.into());
        }
    }
}

/// A connection from a pod's network namespace.
#[derive(Debug)]
pub(crate) struct PodStream {
    tcp: TcpStream,
    store: Arc<Store>,
}

impl PodStream {
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection alone: its socket is closed after use.
    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// The connection; its socket returns to the cache if the connection has ended by then.
    pub(crate) fn reusable(self) -> ReusableStream {
        ReusableStream {
            tcp: self.tcp,
            store: self.store,
        }
    }
}

/// See [`PodStream::reusable`].
#[derive(Debug)]
pub(crate) struct ReusableStream {
    tcp: TcpStream,
    store: Arc<Store>,
}

impl Borrow<TcpStream> for ReusableStream {
    fn borrow(&self) -> &TcpStream {
        &self.tcp
    }
}

impl BorrowMut<TcpStream> for ReusableStream {
    fn borrow_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }
}

impl Drop for ReusableStream {
    fn drop(&mut self) {
        // A socket with unsent data or an unsent end closes by itself: disconnecting it would lose the data.
        if has_ended(&self.tcp)
            && let Ok(socket) = self.tcp.as_fd().try_clone_to_owned()
        {
            self.store.give_back(socket.into());
        }
    }
}

/// Both ends are sent and acknowledged, or the connection was reset.
fn has_ended(tcp: &TcpStream) -> bool {
    let peer = SockRef::from(tcp).peer_addr();
    peer.is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests;
