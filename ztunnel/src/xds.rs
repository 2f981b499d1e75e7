//! What the control plane sends, into the state.

use std::collections::HashSet;
use std::sync::Arc;

use ambit_hbone::HbonePool;
use ambit_policy::Policy;
use ambit_wire::authorization::closed;
use ambit_wire::names::{TYPE_ADDRESS, TYPE_AUTHORIZATION};
use ambit_wire::security::Authorization;
use ambit_wire::workload::Address;
use ambit_wire::xds::{Batch, Handler, Rejection};
use prost::Message;
use tokio::sync::watch;

use crate::state::MeshState;

/// Applies batches; tells when the first complete one of each type has come.
pub(crate) struct StateUpdater {
    pub(crate) state: Arc<MeshState>,
    pub(crate) pool: HbonePool,
    pub(crate) synced: watch::Sender<Synced>,
}

/// Which types have been received completely, once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Synced(HashSet<&'static str>);

impl Synced {
    pub(crate) fn is_complete(&self) -> bool {
        self.0.len() == 2
    }
}

impl Handler for StateUpdater {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        let complete = batch.complete;
        let (kind, rejections) = match batch.type_url.as_str() {
            TYPE_ADDRESS => (TYPE_ADDRESS, self.addresses(batch)),
            TYPE_AUTHORIZATION => (TYPE_AUTHORIZATION, self.authorizations(batch)),
            // Only these two are subscribed to.
            _ => return Vec::new(),
        };
        if complete {
            self.synced.send_if_modified(|synced| synced.0.insert(kind));
        }
        rejections
    }
}

impl StateUpdater {
    fn addresses(&self, batch: Batch) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut addresses = Vec::with_capacity(batch.added.len());
        for resource in batch.added {
            match Address::decode(resource.bytes.as_slice()) {
                Ok(address) => addresses.push((resource.name, address)),
                Err(error) => {
                    rejections.push(Rejection {
                        name: resource.name,
                        reason: error.to_string(),
                    });
                }
            }
        }
        let (moved, invalid) = self.state.apply_addresses(&batch.removed, addresses);
        for workload in moved {
            self.pool.evict_workload(&workload);
        }
        let invalid = invalid.into_iter().map(|(name, error)| Rejection {
            name,
            reason: error.to_string(),
        });
        rejections.extend(invalid);
        rejections
    }

    fn authorizations(&self, batch: Batch) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut policies = Vec::with_capacity(batch.added.len());
        for resource in batch.added {
            let name = resource.name;
            let authorization = match Authorization::decode(resource.bytes.as_slice()) {
                Ok(authorization) => authorization,
                // Not even its name can be trusted; who names it is closed, because it is missing.
                Err(error) => {
                    rejections.push(Rejection {
                        name,
                        reason: error.to_string(),
                    });
                    continue;
                }
            };
            // What takes its place if it is not understood, and no earlier version is there to stay in force.
            let fallback = closed(&authorization);
            match Policy::try_from(authorization) {
                Ok(policy) => policies.push(policy),
                Err(error) => {
                    if !self.state.has_policy(&fallback.name.to_string()) {
                        policies.push(fallback);
                    }
                    rejections.push(Rejection {
                        name,
                        reason: error.to_string(),
                    });
                }
            }
        }
        self.state.apply_policies(policies, &batch.removed);
        rejections
    }
}
