//! One attempt to make a connection, shared by all who need it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tracing::Instrument;

use super::slots::{Flight, Inner, PoolKey};
use crate::client::{Connection, handshake};
use crate::{ConnectError, HboneConfig};
use ambit_tls::IdentityLease;
use ambit_tls::{connect_tls, peer_not_after};

/// Starts the attempt on a task of its own, so that it does not end with the first who asked.
pub(super) fn start<F>(inner: &Arc<Inner>, key: PoolKey, lease: IdentityLease, dial: F) -> Flight
where
    F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
{
    let (tell, flight) = watch::channel(None);
    let span = tracing::debug_span!("hbone-connection", source = %key.source, address = %key.address);
    let pool = Arc::clone(inner);
    let task = async move {
        // Told through the guard, so that those who wait hear of it even if this task is cancelled or panics.
        let mut landing = Landing {
            pool: &pool,
            key: &key,
            tell,
            result: Err(ConnectError::Closed),
            made: None,
        };
        let retire = {
            let (pool, key) = (Arc::clone(&pool), key.clone());
            move || pool.forget(&key)
        };
        let attempt = establish(&pool.config, &key, &lease, dial, retire);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = pool.shutdown.cancelled() => Err(ConnectError::Closed),
        };
        let driver = match outcome {
            Ok((connection, driver)) => {
                landing.made = Some(Arc::new(connection));
                landing.result = Ok(());
                Some(driver)
            }
            Err(error) => {
                landing.result = Err(error);
                None
            }
        };
        drop(landing);
        drop(lease);
        if let Some(driver) = driver {
            driver.await;
            pool.forget(&key);
        }
    };
    inner.tasks.spawn(task.instrument(span));
    flight
}

struct Landing<'a> {
    pool: &'a Inner,
    key: &'a PoolKey,
    tell: watch::Sender<Option<Result<(), ConnectError>>>,
    result: Result<(), ConnectError>,
    made: Option<Arc<Connection>>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.pool
            .finish(self.key, &self.tell.subscribe(), self.made.as_ref());
        self.tell.send_replace(Some(self.result.clone()));
    }
}

async fn establish<F>(
    config: &HboneConfig,
    key: &PoolKey,
    lease: &IdentityLease,
    dial: F,
    retire: impl Fn() + Send + 'static,
) -> Result<(Connection, impl Future<Output = ()> + Send + 'static), ConnectError>
where
    F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
{
    let address = key.address;
    // Its time is its own: what is late is not the connection.
    let certificate = lease.certificate(config.connect_timeout).await;
    let certificate = certificate.map_err(|error| ConnectError::Certificate {
        identity: key.source.clone(),
        error,
    })?;
    let attempt = async {
        let tcp = dial.await.map_err(|error| ConnectError::Dial {
            address,
            error: Arc::new(error),
        })?;
        let tls = connect_tls(tcp, address.ip(), &certificate, Arc::clone(&key.destination))
            .await
            .map_err(|error| ConnectError::Tls { address, error })?;
        let expires = certificate.not_after().min(peer_not_after(tls.get_ref().1));
        let memory = config.memory.borrower(&key.pod);
        handshake(tls, config, memory, expires, retire)
            .await
            .map_err(|error| ConnectError::Http2 {
                address,
                error: error.into(),
            })
    };
    tokio::time::timeout(config.connect_timeout, attempt)
        .await
        .unwrap_or(Err(ConnectError::Timeout {
            address,
            waited: config.connect_timeout,
        }))
}
