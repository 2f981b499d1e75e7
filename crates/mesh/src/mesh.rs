//! The store: lookups, and changes in slices.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::balance::{Endpoint, Query};
use crate::balancing::Via;
use crate::frontend::{Frontend, ServiceEntry};
use crate::tables::{Applied, Tables};
use crate::waypoint::Waypoint;
use crate::workload::Workload;

/// Number of changes made, or entries read, under one lock.
const SLICE: usize = 128;

/// Workloads and services, with their indexes.
#[derive(Debug)]
pub struct Mesh<F> {
    tables: RwLock<Tables<F>>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl<F> Default for Mesh<F> {
    fn default() -> Self {
        Self {
            tables: RwLock::default(),
            changed: watch::Sender::default(),
        }
    }
}

impl<F: Frontend> Mesh<F> {
    /// Sets workloads, then removes others by UID or, where there is no workload of the name, services by key.
    ///
    /// In this order an address that moves from one workload to another always has an owner.
    pub fn apply_workloads(&self, set: Vec<Workload>, removed: &[String]) -> Applied {
        let mut applied = Applied::default();
        let mut set = set.into_iter();
        while set.len() > 0 {
            self.change(|tables| {
                for workload in set.by_ref().take(SLICE) {
                    tables.set_workload(workload, &mut applied);
                }
            });
        }
        for slice in removed.chunks(SLICE) {
            self.change(|tables| {
                for name in slice {
                    tables.forget_refused(name);
                    if !tables.remove_workload(name, &mut applied) {
                        tables.remove_service(name);
                    }
                }
            });
        }
        applied
    }

    /// Sets services, then removes others by key.
    pub fn apply_services(&self, set: Vec<Arc<F>>, removed: &[String]) {
        for slice in set.chunks(SLICE) {
            self.change(|tables| {
                for service in slice {
                    tables.set_service(Arc::clone(service));
                }
            });
        }
        for slice in removed.chunks(SLICE) {
            self.change(|tables| {
                for key in slice {
                    tables.remove_service(key);
                }
            });
        }
    }

    /// Marks the resource with this name (a UID, or a service's key) as not understood: connections to its addresses
    /// are refused until a version of it is understood.
    pub fn refuse(&self, name: &str, addresses: Vec<IpAddr>) -> Applied {
        let mut applied = Applied::default();
        self.change(|tables| tables.refuse(name, addresses, &mut applied));
        applied
    }

    /// Whether the resource at this address is not understood.
    pub fn is_refused(&self, address: IpAddr) -> bool {
        self.tables.read().is_refused(address)
    }

    fn change(&self, change: impl FnOnce(&mut Tables<F>)) {
        change(&mut self.tables.write());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Notified when workloads or services have changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The workload of a UID.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.tables.read().workload(uid).cloned()
    }

    /// Since when connections have waited for the workload with this UID to join: from the first call on, until the
    /// workload is known as joined, or is removed. `None` if it has joined already.
    pub(crate) fn joining_since(&self, uid: &str) -> Option<Instant> {
        self.tables.read().joining_since(uid)
    }

    /// The workload at an address.
    pub fn workload_at(&self, address: IpAddr) -> Option<Arc<Workload>> {
        self.tables.read().workload_at(address).cloned()
    }

    /// The workload at an address, as the endpoint of a connection to that address.
    pub fn endpoint_at(&self, target: SocketAddr) -> Option<Endpoint> {
        self.tables.read().endpoint_at(target)
    }

    /// The service that a connection to this address and port is for.
    pub fn service_at(&self, target: SocketAddr) -> Option<(Arc<ServiceEntry<F>>, Via)> {
        let tables = self.tables.read();
        let (entry, via) = tables.service_at(target)?;
        Some((Arc::clone(entry), via))
    }

    /// The service with this key (`<namespace>/<hostname>`); or the memberships of its endpoints, if the service itself
    /// is missing.
    pub fn service(&self, key: &str) -> Option<Arc<ServiceEntry<F>>> {
        self.tables.read().service(key).cloned()
    }

    /// A replica of a waypoint. The port of the query is ignored.
    pub fn replica(&self, waypoint: &Waypoint, query: &Query<'_>) -> Option<Endpoint> {
        self.tables.read().replica(waypoint, query)
    }

    /// Numbers of workloads and services.
    pub fn counts(&self) -> (usize, usize) {
        let tables = self.tables.read();
        (tables.workload_count(), tables.service_count())
    }

    /// All workloads. May miss some that are added meanwhile.
    pub fn workloads(&self) -> Vec<Arc<Workload>> {
        self.in_slices(Tables::workload_count, |tables, end| {
            tables.workloads_below(end, SLICE).cloned().collect()
        })
    }

    /// All services in the configuration, with their entries.
    pub fn services(&self) -> Vec<(Arc<F>, Arc<ServiceEntry<F>>)> {
        let entries = self.in_slices(Tables::entry_count, |tables, end| {
            tables.services_below(end, SLICE).cloned().collect()
        });
        let known = entries
            .into_iter()
            .filter_map(|entry| Some((entry.config()?, entry)));
        known.collect()
    }

    /// From the last entry to the first: a removed entry is replaced by the last one, which has been read already. So
    /// none is missed, though some may appear twice.
    fn in_slices<T>(
        &self,
        count: impl Fn(&Tables<F>) -> usize,
        read: impl Fn(&Tables<F>, usize) -> Vec<T>,
    ) -> Vec<T> {
        let mut end = count(&self.tables.read());
        let mut found = Vec::with_capacity(end);
        while end > 0 {
            found.extend(read(&self.tables.read(), end));
            end = end.saturating_sub(SLICE);
        }
        found
    }
}
