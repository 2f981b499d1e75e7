//! Applies the control plane's resources to the state.

use std::sync::Arc;

use ambit_hbone::HbonePool;
use ambit_mesh::subscription::{Synced, decode, reject};
use ambit_wire::names::{TYPE_ADDRESS, TYPE_AUTHORIZATION};
use ambit_wire::workload::Address;
use ambit_wire::xds::{Batch, Handler, Rejection};
use prost::Message;
use tokio::sync::watch;

use crate::state::MeshState;

/// Number of subscribed types.
pub(crate) const TYPES: usize = 2;

/// Applies batches, and reports when the first complete response of each type has arrived.
pub(crate) struct StateUpdater {
    pub(crate) state: Arc<MeshState>,
    pub(crate) pool: HbonePool,
    pub(crate) synced: watch::Sender<Synced>,
}

impl Handler for StateUpdater {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        let complete = batch.complete;
        let (kind, rejections) = match batch.type_url.as_str() {
            TYPE_ADDRESS => (TYPE_ADDRESS, self.addresses(batch)),
            TYPE_AUTHORIZATION => (TYPE_AUTHORIZATION, self.state.apply_authorizations(batch)),
            // Only these two are subscribed.
            _ => return Vec::new(),
        };
        if complete {
            self.synced.send_if_modified(|synced| synced.received(kind));
        }
        rejections
    }
}

impl StateUpdater {
    fn addresses(&self, batch: Batch) -> Vec<Rejection> {
        for resource in &batch.added {
            if Address::decode(resource.bytes.as_slice()).is_err() {
                self.state.refuse_undecodable(&resource.name, &resource.bytes);
            }
        }
        let (addresses, mut rejections) = decode::<Address>(batch.added);
        let (moved, invalid) = self.state.apply_addresses(&batch.removed, addresses);
        for workload in moved {
            self.pool.evict_workload(&workload);
        }
        rejections.extend(invalid.into_iter().map(|(name, error)| reject(name, error)));
        rejections
    }
}
