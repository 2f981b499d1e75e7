//! The indexes, kept up with every change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::PolicyTable;
use super::balance::Endpoint;
use super::service::{ServiceConfig, ServiceEntry};
use super::workload::{Invalid, Workload};

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// By `<namespace>/<hostname>`.
    services: HashMap<Arc<str>, Arc<ServiceEntry>>,
    by_vip: HashMap<IpAddr, Arc<ServiceEntry>>,
    /// By UID.
    workloads: HashMap<Arc<str>, Known>,
    by_ip: HashMap<IpAddr, Arc<str>>,
    policies: PolicyTable,
}

/// A workload, and its requests in flight, which outlive its updates.
#[derive(Debug)]
struct Known {
    workload: Arc<Workload>,
    in_flight: Arc<AtomicUsize>,
}

impl Tables {
    pub(super) fn service_at(&self, ip: IpAddr) -> Option<Arc<ServiceEntry>> {
        self.by_vip.get(&ip).cloned()
    }

    pub(super) fn service(&self, key: &str) -> Option<Arc<ServiceEntry>> {
        self.services.get(key).cloned()
    }

    pub(super) fn workload_at(&self, ip: IpAddr, port: u16) -> Option<Endpoint> {
        let known = self.workloads.get(self.by_ip.get(&ip)?)?;
        if !known.workload.bound {
            return None;
        }
        Some(Endpoint::new(
            &known.workload,
            SocketAddr::new(ip, port),
            &known.in_flight,
        ))
    }

    pub(super) fn policy(&self, name: &str) -> Option<Arc<WaypointPolicy>> {
        self.policies.get(name).cloned()
    }

    pub(super) fn policies(&self) -> &PolicyTable {
        &self.policies
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    pub(super) fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid).map(|known| &known.workload)
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values().map(|known| &known.workload)
    }

    pub(super) fn service_count(&self) -> usize {
        self.services
            .values()
            .filter(|entry| entry.config().is_some())
            .count()
    }

    pub(super) fn set_service(&mut self, service: wire::Service) -> Result<(), Invalid> {
        let config = ServiceConfig::resolve(service, |name| self.policies.get(name).cloned())?;
        let entry = Arc::clone(self.services.entry(Arc::clone(&config.key)).or_default());
        if let Some(old) = entry.config() {
            self.unlink_vips(&entry, &old);
        }
        for vip in &config.addresses {
            self.by_vip.insert(*vip, Arc::clone(&entry));
        }
        entry.set_config(Some(config));
        Ok(())
    }

    pub(super) fn remove_service(&mut self, key: &str) {
        let Some(entry) = self.services.get(key).cloned() else {
            return;
        };
        if let Some(old) = entry.config() {
            self.unlink_vips(&entry, &old);
        }
        entry.set_config(None);
        if entry.endpoints.read().is_empty() {
            self.services.remove(key);
        }
    }

    /// An address that another service has taken over meanwhile stays with that one.
    fn unlink_vips(&mut self, entry: &Arc<ServiceEntry>, old: &ServiceConfig) {
        for vip in &old.addresses {
            if self
                .by_vip
                .get(vip)
                .is_some_and(|current| Arc::ptr_eq(current, entry))
            {
                self.by_vip.remove(vip);
            }
        }
    }

    /// Returns its UID where it was known and has other addresses or another identity now.
    pub(super) fn set_workload(&mut self, workload: Workload) -> Option<Arc<str>> {
        let workload = Arc::new(workload);
        let old = self.workloads.get(&workload.uid);
        let in_flight = old.map(|old| Arc::clone(&old.in_flight)).unwrap_or_default();
        let old = old.map(|old| Arc::clone(&old.workload));
        let mut moved = None;
        if let Some(old) = &old {
            if old.addresses != workload.addresses || old.identity != workload.identity {
                moved = Some(Arc::clone(&old.uid));
            }
            self.unlink_addresses(old);
            for service in old.services.keys() {
                if !workload.services.contains_key(service) {
                    self.remove_endpoint(service, &old.uid);
                }
            }
        }
        // The pods of the host network share the node's address.
        if !workload.host_network {
            for ip in &workload.addresses {
                self.by_ip.insert(*ip, Arc::clone(&workload.uid));
            }
        }
        for (service, ports) in &workload.services {
            let entry = self.services.entry(Arc::clone(service)).or_default();
            entry.endpoints.write().set(&workload, ports, &in_flight);
        }
        let known = Known {
            workload: Arc::clone(&workload),
            in_flight,
        };
        self.workloads.insert(Arc::clone(&workload.uid), known);
        moved
    }

    /// Returns its UID where it was known.
    pub(super) fn remove_workload(&mut self, uid: &str) -> Option<Arc<str>> {
        let old = self.workloads.remove(uid)?.workload;
        self.unlink_addresses(&old);
        for service in old.services.keys() {
            self.remove_endpoint(service, uid);
        }
        Some(Arc::clone(&old.uid))
    }

    /// An address that another workload has taken over meanwhile stays with that one.
    fn unlink_addresses(&mut self, old: &Workload) {
        for ip in &old.addresses {
            if self.by_ip.get(ip).is_some_and(|current| *current == old.uid) {
                self.by_ip.remove(ip);
            }
        }
    }

    fn remove_endpoint(&mut self, service: &str, uid: &str) {
        let Some(entry) = self.services.get(service) else {
            return;
        };
        let mut endpoints = entry.endpoints.write();
        endpoints.remove(uid);
        let unused = endpoints.is_empty() && entry.config().is_none();
        drop(endpoints);
        if unused {
            self.services.remove(service);
        }
    }

    /// Returns the names of those that have changed; services that name them follow at once.
    pub(super) fn change_policies(&mut self, removed: &[String], set: Vec<WaypointPolicy>) -> Vec<Arc<str>> {
        let mut changed: Vec<Arc<str>> = Vec::new();
        for name in removed {
            changed.extend(self.policies.remove_entry(name.as_str()).map(|(name, _)| name));
        }
        for policy in set {
            changed.push(Arc::clone(&policy.name));
            self.policies.insert(Arc::clone(&policy.name), Arc::new(policy));
        }
        for entry in self.services.values() {
            if let Some(config) = entry.config()
                && config.names_any(&changed)
            {
                let resolved = config.resolve_again(|name| self.policies.get(name).cloned());
                entry.set_config(Some(resolved));
            }
        }
        changed
    }
}
