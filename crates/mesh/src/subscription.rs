//! Applies the resources of delta xDS.

use std::collections::HashSet;
use std::fmt;

use ambit_policy::Policy;
use ambit_wire::authorization::closed;
use ambit_wire::security::Authorization;
use ambit_wire::xds::{Batch, Rejection, Resource};
use prost::Message;

use crate::authorizations::Authorizations;

/// Which types have been received completely, once.
#[derive(Debug, Clone)]
pub struct Synced {
    types: usize,
    received: HashSet<&'static str>,
}

impl Synced {
    /// Number of types without a complete response.
    pub fn expecting(types: usize) -> Self {
        Self {
            types,
            received: HashSet::new(),
        }
    }

    /// A type is complete; returns whether for the first time.
    pub fn received(&mut self, type_url: &'static str) -> bool {
        self.received.insert(type_url)
    }

    /// Whether all types are complete.
    pub fn is_complete(&self) -> bool {
        self.received.len() == self.types
    }
}

/// Resources by name; and those that could not be decoded.
pub fn decode<M: Message + Default>(resources: Vec<Resource>) -> (Vec<(String, M)>, Vec<Rejection>) {
    let mut decoded = Vec::with_capacity(resources.len());
    let mut rejections = Vec::new();
    for resource in resources {
        match M::decode(resource.bytes.as_slice()) {
            Ok(message) => decoded.push((resource.name, message)),
            Err(error) => rejections.push(reject(resource.name, error)),
        }
    }
    (decoded, rejections)
}

/// Why a resource is not in force.
pub fn reject(name: String, error: impl fmt::Display) -> Rejection {
    Rejection {
        name,
        reason: error.to_string(),
    }
}

impl Authorizations {
    /// Applies a batch of authorizations. A closed policy replaces one that is not understood, if no earlier version is
    /// in force, and always if the policy requires a later version. The name of a policy that cannot be decoded cannot
    /// be trusted; workloads that name it are closed, because it is missing.
    pub fn apply_batch(&self, batch: Batch) -> Vec<Rejection> {
        let (decoded, mut rejections) = decode::<Authorization>(batch.added);
        let mut policies = Vec::with_capacity(decoded.len());
        for (name, one) in decoded {
            let fallback = closed(&one);
            match Policy::try_from(one) {
                Ok(policy) => policies.push(policy),
                Err(error) => {
                    if error.is_of_a_later_version() || !self.has(&fallback.name.to_string()) {
                        policies.push(fallback);
                    }
                    rejections.push(reject(name, error));
                }
            }
        }
        self.apply(&policies, &batch.removed);
        rejections
    }
}
