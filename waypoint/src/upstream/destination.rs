//! Where connections go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_identity::SpiffeId;

use crate::state::Endpoint;

/// How long a connection takes new requests, at most: then its endpoint gets another one, and whoever it speaks for has shown a new
/// certificate. Not all end at once.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// An endpoint, as far as connecting to it goes.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The workload's UID: a reused address is another workload.
    pub(crate) workload: Arc<str>,
    /// Whom HBONE must find there.
    pub(crate) identity: SpiffeId,
    /// The application's address.
    pub(crate) address: SocketAddr,
    /// Its proxy's, where it is reached over HBONE.
    pub(crate) hbone: Option<SocketAddr>,
}

/// What connections are shared among.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) workload: Arc<str>,
    pub(super) address: SocketAddr,
    hbone: bool,
}

impl Destination {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            workload: Arc::clone(&endpoint.workload.uid),
            identity: endpoint.workload.identity.clone(),
            address: endpoint.target,
            hbone: endpoint.workload.hbone_address(endpoint.target),
        }
    }

    pub(super) fn key(&self) -> Key {
        Key {
            workload: Arc::clone(&self.workload),
            address: self.address,
            hbone: self.hbone.is_some(),
        }
    }
}

/// [`MAX_AGE`], for one connection.
pub(super) fn max_age() -> Duration {
    MAX_AGE.mul_f64(rand::random_range(0.8..1.0))
}
