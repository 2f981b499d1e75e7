//! Where connections go.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_identity::SpiffeId;

use crate::state::Endpoint;

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
