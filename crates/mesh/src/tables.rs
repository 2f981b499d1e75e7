//! The indexes, updated with every change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use tokio::time::Instant;

use crate::addresses::AddressTable;
use crate::balance::{Endpoint, Query};
use crate::balancing::Via;
use crate::frontend::{Frontend, ServiceEntry};
use crate::load::Load;
use crate::waypoint::{At, Waypoint};
use crate::workload::{Protocol, Workload};

/// Consequences of a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// UIDs of workloads that are removed, or have other addresses or another identity: pooled connections to them must
    /// not be used again.
    pub moved: Vec<Arc<str>>,
    /// Other policies may apply to a workload than before.
    pub authorization: bool,
    /// A workload that was bound to a waypoint is no longer, or has moved.
    pub unbound: bool,
}

/// A workload, and its load, which outlives updates.
#[derive(Debug)]
struct Known {
    workload: Arc<Workload>,
    load: Arc<Load>,
    /// Since when connections have waited for it to join. Updates leave this unchanged until it has joined.
    joining: Arc<OnceLock<Instant>>,
}

#[derive(Debug)]
pub(crate) struct Tables<F> {
    /// By UID.
    workloads: IndexMap<Arc<str>, Arc<Known>>,
    by_ip: AddressTable<Known>,
    /// By `<namespace>/<hostname>`.
    services: IndexMap<Arc<str>, Arc<ServiceEntry<F>>>,
    by_vip: AddressTable<ServiceEntry<F>>,
    /// Addresses outside of the cluster that lead to services. Services may share an address, each with its own ports.
    by_external: AddressTable<ServiceEntry<F>, (IpAddr, u16)>,
    /// Resources that are not understood, by name. Connections to their addresses are refused.
    refused: HashMap<String, Arc<Vec<IpAddr>>>,
    refused_at: AddressTable<Vec<IpAddr>>,
    /// Number of services in the configuration, without those that only endpoints name.
    service_count: usize,
}

impl<F> Default for Tables<F> {
    fn default() -> Self {
        Self {
            workloads: IndexMap::new(),
            by_ip: AddressTable::default(),
            services: IndexMap::new(),
            by_vip: AddressTable::default(),
            by_external: AddressTable::default(),
            refused: HashMap::new(),
            refused_at: AddressTable::default(),
            service_count: 0,
        }
    }
}

impl<F: Frontend> Tables<F> {
    pub(crate) fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid).map(|known| &known.workload)
    }

    pub(crate) fn joining_since(&self, uid: &str) -> Option<Instant> {
        let known = self.workloads.get(uid)?;
        let joins = known.workload.protocol != Protocol::Hbone;
        joins.then(|| *known.joining.get_or_init(Instant::now))
    }

    pub(crate) fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_ip.get(ip).map(|known| &known.workload)
    }

    /// The workload at an address, as an endpoint.
    pub(crate) fn endpoint_at(&self, target: SocketAddr) -> Option<Endpoint> {
        let known = self.by_ip.get(target.ip())?;
        Some(Endpoint::new(&known.workload, target, &known.load))
    }

    pub(crate) fn service(&self, key: &str) -> Option<&Arc<ServiceEntry<F>>> {
        self.services.get(key)
    }

    /// Addresses in the cluster precede claims to addresses outside of it.
    pub(crate) fn service_at(&self, target: SocketAddr) -> Option<(&Arc<ServiceEntry<F>>, Via)> {
        if let Some(entry) = self.by_vip.get(target.ip()) {
            return Some((entry, Via::ClusterIp));
        }
        let external = self.by_external.get((target.ip(), target.port()))?;
        let taken = self.by_ip.get(target.ip()).is_some();
        (!taken).then_some((external, Via::External))
    }

    /// Some workloads, counted from the last one.
    pub(crate) fn workloads_below(&self, end: usize, count: usize) -> impl Iterator<Item = &Arc<Workload>> {
        let slice = slice(self.workloads.len(), end, count);
        self.workloads
            .get_range(slice)
            .into_iter()
            .flat_map(|slice| slice.values())
            .map(|known| &known.workload)
    }

    /// Some services, counted from the last one.
    pub(crate) fn services_below(
        &self,
        end: usize,
        count: usize,
    ) -> impl Iterator<Item = &Arc<ServiceEntry<F>>> {
        let slice = slice(self.services.len(), end, count);
        self.services
            .get_range(slice)
            .into_iter()
            .flat_map(|slice| slice.values())
    }

    pub(crate) fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// Includes services that only endpoints name.
    pub(crate) fn entry_count(&self) -> usize {
        self.services.len()
    }

    pub(crate) fn service_count(&self) -> usize {
        self.service_count
    }

    /// A replica of a waypoint.
    pub(crate) fn replica(&self, waypoint: &Waypoint, query: &Query<'_>) -> Option<Endpoint> {
        let query = Query {
            port: waypoint.port,
            ..*query
        };
        match &waypoint.at {
            At::Service(key) => self.services.get(key)?.choose(&query),
            At::Address(address) => match self.by_vip.get(*address) {
                Some(entry) => entry.choose(&query),
                None => self
                    .endpoint_at(SocketAddr::new(*address, waypoint.port))
                    .filter(|endpoint| !query.tried.contains(&endpoint.workload.uid)),
            },
            At::Nowhere => None,
        }
    }

    /// Marks a resource as not understood: connections to its addresses are refused until a version of it is
    /// understood.
    pub(crate) fn refuse(&mut self, name: &str, addresses: Vec<IpAddr>, applied: &mut Applied) {
        self.forget_refused(name);
        if !self.remove_workload(name, applied) {
            self.remove_service(name);
        }
        let addresses = Arc::new(addresses);
        for address in addresses.iter() {
            self.refused_at.claim(*address, &addresses, None);
        }
        self.refused.insert(name.to_owned(), addresses);
    }

    pub(crate) fn is_refused(&self, address: IpAddr) -> bool {
        self.refused_at.get(address).is_some()
    }

    pub(crate) fn forget_refused(&mut self, name: &str) {
        if let Some(addresses) = self.refused.remove(name) {
            for address in addresses.iter() {
                self.refused_at.release(*address, &addresses);
            }
        }
    }

    pub(crate) fn set_workload(&mut self, workload: Workload, applied: &mut Applied) {
        self.forget_refused(&workload.uid);
        let workload = Arc::new(workload);
        let old = self.workloads.get(&workload.uid).cloned();
        let load = match &old {
            Some(old) => Arc::clone(&old.load),
            None => Arc::default(),
        };
        load.forgive();
        let joining = match &old {
            Some(old) if workload.protocol != Protocol::Hbone => Arc::clone(&old.joining),
            _ => Arc::default(),
        };
        let known = Arc::new(Known {
            workload: Arc::clone(&workload),
            load,
            joining,
        });
        // Pods on the host network share the node's address.
        let own = |workload: &Workload| (!workload.host_network).then(|| workload.addresses.clone());
        let addresses = own(&workload).unwrap_or_default();
        for address in &addresses {
            self.by_ip.claim(*address, &known, old.as_ref());
        }
        match &old {
            Some(old) => {
                let before = &old.workload;
                if workload.has_moved_from(before) {
                    applied.moved.push(Arc::clone(&before.uid));
                }
                applied.authorization |= workload.is_judged_otherwise(before);
                applied.unbound |= before.waypoint.is_some()
                    && (workload.waypoint.is_none() || workload.has_moved_from(before));
                for address in own(before).unwrap_or_default() {
                    if !addresses.contains(&address) {
                        self.by_ip.release(address, old);
                    }
                }
                for service in before.services.keys() {
                    if !workload.services.contains_key(service) {
                        self.remove_endpoint(service, &before.uid);
                    }
                }
            }
            // It may have existed before, with other policies, and connections to it may have outlived its absence.
            None => applied.authorization = true,
        }
        for (service, membership) in &workload.services {
            let entry = self.services.entry(Arc::clone(service)).or_default();
            entry.change_endpoints(|endpoints| endpoints.set(&workload, membership, &known.load));
        }
        self.workloads.insert(Arc::clone(&workload.uid), known);
    }

    /// Whether it existed.
    pub(crate) fn remove_workload(&mut self, uid: &str, applied: &mut Applied) -> bool {
        let Some(old) = self.workloads.swap_remove(uid) else {
            return false;
        };
        for address in &old.workload.addresses {
            self.by_ip.release(*address, &old);
        }
        for service in old.workload.services.keys() {
            self.remove_endpoint(service, uid);
        }
        applied.unbound |= old.workload.waypoint.is_some();
        applied.moved.push(Arc::clone(&old.workload.uid));
        true
    }

    fn remove_endpoint(&mut self, service: &str, uid: &str) {
        let Some(entry) = self.services.get(service) else {
            return;
        };
        entry.change_endpoints(|endpoints| endpoints.remove(uid));
        if entry.is_unused() {
            self.services.swap_remove(service);
        }
    }

    pub(crate) fn set_service(&mut self, config: Arc<F>) {
        self.forget_refused(config.key());
        let entry = Arc::clone(self.services.entry(Arc::clone(config.key())).or_default());
        let old = entry.config();
        for vip in config.addresses() {
            self.by_vip.claim(*vip, &entry, None);
        }
        for external in config.external() {
            self.by_external.claim(*external, &entry, None);
        }
        match &old {
            Some(old) => {
                for vip in old.addresses() {
                    if !config.addresses().contains(vip) {
                        self.by_vip.release(*vip, &entry);
                    }
                }
                for external in old.external() {
                    if !config.external().contains(external) {
                        self.by_external.release(*external, &entry);
                    }
                }
            }
            None => self.service_count += 1,
        }
        entry.set_config(Some(config));
    }

    pub(crate) fn remove_service(&mut self, key: &str) {
        let Some(entry) = self.services.get(key).cloned() else {
            return;
        };
        if let Some(old) = entry.config() {
            self.service_count -= 1;
            for vip in old.addresses() {
                self.by_vip.release(*vip, &entry);
            }
            for external in old.external() {
                self.by_external.release(*external, &entry);
            }
        }
        entry.set_config(None);
        if entry.is_unused() {
            self.services.swap_remove(key);
        }
    }
}

fn slice(len: usize, end: usize, count: usize) -> std::ops::Range<usize> {
    let end = end.min(len);
    end.saturating_sub(count)..end
}
