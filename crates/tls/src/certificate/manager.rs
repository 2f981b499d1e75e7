//! Certificates of all the identities in use: fetched once for all who wait, renewed at half-life, dropped with their last user.

mod dump;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{CertificateError, CertificateSource, WorkloadCertificate};
use crate::clock::WallClock;
use ambit_identity::SpiffeId;
pub use dump::{CertificateDump, CertificateState, ChainDump};

/// How the manager behaves.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Requests to the CA at once that somebody waits for. Default 16.
    pub on_demand: usize,
    /// Renewals and prefetches at once. Default 4.
    pub background: usize,
    /// How long one request to the CA may take. Default 10 s.
    pub request_timeout: Duration,
    /// Delay after a first failure; doubles up to `max_backoff`. Default 100 ms.
    pub min_backoff: Duration,
    /// Default 30 s; 1 s at most while somebody waits.
    pub max_backoff: Duration,
    /// Roots trusted besides the one at the end of each chain.
    pub roots: Vec<CertificateDer<'static>>,
    /// What certificates are renewed and end by. Default: the system's.
    pub clock: WallClock,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            on_demand: 16,
            background: 4,
            request_timeout: Duration::from_secs(10),
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            roots: Vec::new(),
            clock: WallClock::default(),
        }
    }
}

/// Holds the certificates of the identities that are leased.
#[derive(Clone)]
pub struct CertificateManager {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn CertificateSource>,
    config: ManagerConfig,
    entries: Mutex<HashMap<SpiffeId, Weak<Entry>>>,
    on_demand: Semaphore,
    background: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Clone, Default)]
struct Status {
    certificate: Option<Arc<WorkloadCertificate>>,
    failure: Option<CertificateError>,
}

impl Status {
    fn valid(&self, now: SystemTime) -> Option<&Arc<WorkloadCertificate>> {
        self.certificate
            .as_ref()
            .filter(|certificate| certificate.is_valid(now))
    }
}

struct Entry {
    identity: SpiffeId,
    clock: WallClock,
    status: watch::Sender<Status>,
    /// Someone waits.
    demand: Arc<Notify>,
    /// Ends the worker when the last lease is gone.
    cancel: CancellationToken,
}

impl Entry {
    /// Whether there is none that can be used.
    fn needs_certificate(&self) -> bool {
        self.status.borrow().valid(self.clock.now()).is_none()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Keeps an identity's certificate fresh for as long as it, or a clone of it, lives.
#[derive(Clone)]
pub struct IdentityLease {
    entry: Arc<Entry>,
}

impl CertificateManager {
    /// A manager that asks `source`.
    pub fn new(source: Arc<dyn CertificateSource>, config: ManagerConfig) -> Self {
        let inner = Inner {
            source,
            entries: Mutex::default(),
            on_demand: Semaphore::new(config.on_demand.max(1)),
            background: Semaphore::new(config.background.max(1)),
            config,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Starts to fetch and renew the certificate of `identity`, or shares what is there. Must be called within a Tokio
    /// runtime.
    pub fn lease(&self, identity: SpiffeId) -> IdentityLease {
        let mut entries = self.inner.entries.lock();
        if let Some(entry) = entries.get(&identity).and_then(Weak::upgrade) {
            return IdentityLease { entry };
        }
        let entry = Arc::new(Entry {
            identity: identity.clone(),
            clock: self.inner.config.clock,
            status: watch::Sender::default(),
            demand: Arc::default(),
            cancel: self.inner.shutdown.child_token(),
        });
        entries.insert(identity.clone(), Arc::downgrade(&entry));
        let span = tracing::info_span!("certificate", %identity);
        self.inner
            .tasks
            .spawn(worker::run(Arc::clone(&self.inner), identity, Arc::downgrade(&entry)).instrument(span));
        IdentityLease { entry }
    }

    /// What is held, for people: chains and validity, never keys.
    pub fn dump(&self) -> Vec<CertificateDump> {
        let entries: Vec<_> = self
            .inner
            .entries
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        let mut dumps: Vec<_> = entries
            .iter()
            .map(|entry| dump::dump(&entry.identity, &entry.status.borrow(), entry.clock.now()))
            .collect();
        dumps.sort_by(|a, b| a.identity.cmp(&b.identity));
        dumps
    }

    /// Ends all renewals; resolves when the last request to the CA has ended.
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl IdentityLease {
    /// Whose certificate it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.entry.identity
    }

    /// The certificate, if there is a valid one now.
    pub fn current(&self) -> Option<Arc<WorkloadCertificate>> {
        self.entry.status.borrow().valid(self.entry.clock.now()).cloned()
    }

    /// The certificate; where there is none yet, waits for it up to `timeout`, and the request goes before renewals.
    ///
    /// # Errors
    /// The last failure, when none came in time.
    pub async fn certificate(&self, timeout: Duration) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        if let Some(certificate) = self.current() {
            return Ok(certificate);
        }
        let mut status = self.entry.status.subscribe();
        self.entry.demand.notify_one();
        let valid = status.wait_for(|status| status.valid(self.entry.clock.now()).is_some());
        match tokio::time::timeout(timeout, valid).await {
            Ok(Ok(status)) => status
                .valid(self.entry.clock.now())
                .cloned()
                .ok_or(CertificateError::Closed),
            Ok(Err(_)) => Err(CertificateError::Closed),
            Err(_) => Err(match self.entry.status.borrow().failure.clone() {
                Some(refused @ CertificateError::Refused(_)) => refused,
                last => CertificateError::Timeout {
                    waited: timeout,
                    last: last.map(|error| error.to_string()),
                },
            }),
        }
    }
}
