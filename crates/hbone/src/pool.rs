//! The client's pool of HBONE connections.

mod flight;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::uri::Authority;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{Connection, Limit, Reserved};
use super::{ConnectError, HboneConfig, HboneStream, OpenError};
use ambit_tls::IdentityLease;
pub use slots::PoolKey;
use slots::{Flight, Inner};

/// Connections made since a stream was asked for that may go away before they have taken it.
const NEW_CONNECTIONS: u32 = 3;

/// Pooled HBONE connections. No lock is held while connecting; those who need the same connection at the same time share one
/// attempt, and its failure.
#[derive(Clone)]
pub struct HbonePool {
    inner: Arc<Inner>,
}

enum Step {
    Use(Arc<Connection>, Reserved),
    Wait(Flight),
    /// For the word of a connection's peer on how many streams it allows.
    Settle(watch::Receiver<bool>),
}

impl HbonePool {
    /// An empty pool.
    pub fn new(config: HboneConfig) -> Self {
        let inner = Inner {
            config,
            slots: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Opens a CONNECT stream to `authority`, over a pooled connection or over a new one made with `lease`'s certificate and a
    /// socket from `dial`.
    ///
    /// # Errors
    /// When no connection can be made, or the destination's proxy refuses.
    pub async fn open<D, F>(
        &self,
        key: &PoolKey,
        lease: &IdentityLease,
        authority: &Authority,
        dial: D,
    ) -> Result<HboneStream, OpenError>
    where
        D: Fn() -> F,
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        self.open_with(key, lease, authority, &HeaderMap::new(), dial)
            .await
    }

    /// As [`HbonePool::open`], with headers on the CONNECT.
    ///
    /// # Errors
    /// As [`HbonePool::open`].
    pub async fn open_with<D, F>(
        &self,
        key: &PoolKey,
        lease: &IdentityLease,
        authority: &Authority,
        headers: &HeaderMap,
        dial: D,
    ) -> Result<HboneStream, OpenError>
    where
        D: Fn() -> F,
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        self.open_until(key, lease, authority, headers, None, dial).await
    }

    /// As [`HbonePool::open_with`], for those who have something else to try: an error when there is no answer `within` that time,
    /// whether over a pooled connection or a new one. The wait for a certificate does not count.
    ///
    /// A connection on which the answer does not come takes no new streams, as it may be dead; one that is not made in time is still
    /// made, for those who come later.
    ///
    /// # Errors
    /// As [`HbonePool::open`].
    pub async fn open_within<D, F>(
        &self,
        key: &PoolKey,
        lease: &IdentityLease,
        authority: &Authority,
        headers: &HeaderMap,
        within: Duration,
        dial: D,
    ) -> Result<HboneStream, OpenError>
    where
        D: Fn() -> F,
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        let waited = self.inner.config.connect_timeout;
        lease
            .certificate(waited)
            .await
            .map_err(|error| ConnectError::Certificate {
                identity: key.source.clone(),
                error,
            })?;
        let limit = Some(Limit::of(within));
        self.open_until(key, lease, authority, headers, limit, dial).await
    }

    async fn open_until<D, F>(
        &self,
        key: &PoolKey,
        lease: &IdentityLease,
        authority: &Authority,
        headers: &HeaderMap,
        limit: Option<Limit>,
        dial: D,
    ) -> Result<HboneStream, OpenError>
    where
        D: Fn() -> F,
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        // A connection that turns out to be going away costs a turn; so does losing the race for a full one's last place.
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            match self.step(key, lease, &dial)? {
                Step::Use(connection, reserved) => {
                    let limit = limit.unwrap_or_else(|| Limit::of(self.inner.config.response_timeout));
                    match connection.connect(authority, headers, reserved, limit).await {
                        // Only new ones count: a server that goes away may leave any number of older ones, each met once.
                        Err(OpenError::Unsent(error))
                            if connection.made < begun || tries < NEW_CONNECTIONS =>
                        {
                            tries += u32::from(connection.made >= begun);
                            tracing::debug!(%error, address = %key.address, "pooled connection was stale: trying again");
                        }
                        result => return result,
                    }
                }
                Step::Settle(mut settled) => {
                    let limit = limit.unwrap_or_else(|| Limit::of(self.inner.config.response_timeout));
                    // An error is the connection's end: then there is another one to be made.
                    if timeout_at(limit.until, settled.wait_for(|settled| *settled))
                        .await
                        .is_err()
                    {
                        return Err(OpenError::ResponseTimeout(limit.whole));
                    }
                }
                Step::Wait(mut flight) => {
                    let landed = async { flight.wait_for(Option::is_some).await.map(|done| done.clone()) };
                    let landed = match limit {
                        Some(limit) => {
                            timeout_at(limit.until, landed)
                                .await
                                .map_err(|_| ConnectError::Timeout {
                                    address: key.address,
                                    waited: limit.whole,
                                })?
                        }
                        None => landed.await,
                    };
                    match landed {
                        Ok(Some(Ok(()))) => {}
                        Ok(Some(Err(error))) => return Err(error.into()),
                        Ok(None) | Err(_) => return Err(ConnectError::Closed.into()),
                    }
                }
            }
        }
    }

    fn step<D, F>(&self, key: &PoolKey, lease: &IdentityLease, dial: &D) -> Result<Step, ConnectError>
    where
        D: Fn() -> F,
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        let mut slots = self.inner.slots.lock();
        if self.inner.shutdown.is_cancelled() {
            return Err(ConnectError::Closed);
        }
        let slot = match slots.get_mut(key) {
            Some(slot) => slot,
            None => slots.entry(key.clone()).or_default(),
        };
        slot.connections.retain(|connection| connection.state.is_open());
        let free = slot
            .connections
            .iter()
            .find_map(|c| c.reserve().map(|reserved| (Arc::clone(c), reserved)));
        if let Some((connection, reserved)) = free {
            return Ok(Step::Use(connection, reserved));
        }
        if let Some(settled) = slot.connections.iter().find_map(|c| c.state.unsettled()) {
            return Ok(Step::Settle(settled));
        }
        if let Some(flight) = &slot.flight {
            return Ok(Step::Wait(flight.clone()));
        }
        let flight = flight::start(&self.inner, key.clone(), lease.clone(), dial());
        slot.flight = Some(flight.clone());
        Ok(Step::Wait(flight))
    }

    /// Takes the connections to a workload out of the pool. Streams that are open go on.
    pub fn evict_workload(&self, workload: &str) {
        self.evict(|key| &*key.workload == workload);
    }

    /// Takes the connections from a pod out of the pool. Streams that are open go on.
    pub fn evict_pod(&self, pod: &str) {
        self.evict(|key| &*key.pod == pod);
    }

    fn evict(&self, which: impl Fn(&PoolKey) -> bool) {
        self.inner.slots.lock().retain(|key, slot| {
            let evicted = which(key);
            if evicted {
                slot.connections
                    .iter()
                    .for_each(|connection| connection.state.close());
            }
            !evicted
        });
    }

    /// Connections that take new streams.
    pub fn len(&self) -> usize {
        self.inner
            .slots
            .lock()
            .values()
            .map(|slot| slot.connections.iter().filter(|c| c.state.is_open()).count())
            .sum()
    }

    /// Whether there is no connection that takes new streams.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens nothing more; resolves when the last stream has ended.
    pub async fn drain(&self) {
        self.inner.shutdown.cancel();
        self.evict(|_| true);
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}
