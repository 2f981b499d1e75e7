//! The indexes, kept up with every change.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_wire::workload::{Address, address};

use super::balance::{Choice, ServiceEntry};
use super::service::Service;
use super::waypoint::{At, Waypoint};
use super::workload::{InvalidAddress, Workload};

#[derive(Debug, Default)]
pub(super) struct Tables {
    by_uid: HashMap<Arc<str>, Arc<Workload>>,
    by_ip: HashMap<IpAddr, Arc<Workload>>,
    /// By `<namespace>/<hostname>`.
    services: HashMap<Arc<str>, ServiceEntry>,
    by_vip: HashMap<IpAddr, Arc<str>>,
}

/// What else a change means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// A workload that is gone, or has other addresses or another identity.
    pub(super) moved: Option<Arc<str>>,
    /// Other policies apply to it than before.
    pub(super) authorization: bool,
}

impl Tables {
    pub(super) fn workload(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.by_ip.get(&ip)
    }

    pub(super) fn service_at(&self, ip: IpAddr) -> Option<&ServiceEntry> {
        self.services.get(self.by_vip.get(&ip)?)
    }

    /// A replica of a waypoint.
    pub(super) fn replica(&self, waypoint: &Waypoint, v4: bool, tried: &[Arc<str>]) -> Option<Choice> {
        match &waypoint.at {
            At::Service(key) => self.services.get(key)?.choose(waypoint.port, v4, tried),
            At::Address(address) => match self.service_at(*address) {
                Some(entry) => entry.choose(waypoint.port, v4, tried),
                None => {
                    let workload = self.by_ip.get(address).filter(|w| !tried.contains(&w.uid))?;
                    let target = SocketAddr::new(*address, waypoint.port);
                    Some(Choice::only(Arc::clone(workload), target))
                }
            },
            At::Nowhere => None,
        }
    }

    pub(super) fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key)?.service()
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.services.values()
    }

    pub(super) fn workload_count(&self) -> usize {
        self.by_uid.len()
    }

    pub(super) fn service_count(&self) -> usize {
        self.services
            .values()
            .filter(|entry| entry.service().is_some())
            .count()
    }

    pub(super) fn set(&mut self, address: Address) -> Result<Effect, InvalidAddress> {
        match address.r#type {
            Some(address::Type::Workload(workload)) => Ok(self.set_workload(workload.try_into()?)),
            Some(address::Type::Service(service)) => {
                self.set_service(service.try_into()?);
                Ok(Effect::default())
            }
            None => Err(InvalidAddress::Empty),
        }
    }

    /// Removes a workload by UID or a service by `<namespace>/<hostname>`.
    pub(super) fn remove(&mut self, name: &str) -> Effect {
        if let Some(old) = self.remove_workload(name) {
            return Effect {
                moved: Some(Arc::clone(&old.uid)),
                authorization: false,
            };
        }
        self.remove_service(name);
        Effect::default()
    }

    fn set_workload(&mut self, workload: Workload) -> Effect {
        let workload = Arc::new(workload);
        let old = self.by_uid.get(&workload.uid).cloned();
        let mut effect = Effect::default();
        if let Some(old) = &old {
            if old.addresses != workload.addresses || old.identity != workload.identity {
                effect.moved = Some(Arc::clone(&old.uid));
            }
            effect.authorization = old.authorization_policies != workload.authorization_policies
                || old.namespace != workload.namespace;
            self.unlink_addresses(old);
            for service in old
                .services
                .keys()
                .filter(|service| !workload.services.contains_key(*service))
            {
                self.remove_endpoint(service, &old.uid);
            }
        }
        // The pods of the host network share the node's address.
        if !workload.host_network {
            for ip in &workload.addresses {
                self.by_ip.insert(*ip, Arc::clone(&workload));
            }
        }
        for (service, ports) in &workload.services {
            self.services
                .entry(Arc::clone(service))
                .or_default()
                .set_endpoint(&workload, ports);
        }
        self.by_uid.insert(Arc::clone(&workload.uid), workload);
        effect
    }

    fn remove_workload(&mut self, uid: &str) -> Option<Arc<Workload>> {
        let old = self.by_uid.remove(uid)?;
        self.unlink_addresses(&old);
        for service in old.services.keys() {
            self.remove_endpoint(service, uid);
        }
        Some(old)
    }

    /// An address that another workload has taken over meanwhile stays with that one.
    fn unlink_addresses(&mut self, old: &Workload) {
        for ip in &old.addresses {
            if self.by_ip.get(ip).is_some_and(|current| current.uid == old.uid) {
                self.by_ip.remove(ip);
            }
        }
    }

    fn remove_endpoint(&mut self, service: &str, uid: &str) {
        if let Some(entry) = self.services.get_mut(service) {
            entry.remove_endpoint(uid);
            if entry.is_unused() {
                self.services.remove(service);
            }
        }
    }

    fn set_service(&mut self, service: Service) {
        let service = Arc::new(service);
        let entry = self.services.entry(Arc::clone(&service.key)).or_default();
        let old = entry.service().cloned();
        entry.set_service(Some(Arc::clone(&service)));
        if let Some(old) = old {
            self.unlink_vips(&old);
        }
        for vip in &service.addresses {
            self.by_vip.insert(*vip, Arc::clone(&service.key));
        }
    }

    fn remove_service(&mut self, key: &str) {
        let Some(entry) = self.services.get_mut(key) else {
            return;
        };
        let old = entry.service().cloned();
        entry.set_service(None);
        if entry.is_unused() {
            self.services.remove(key);
        }
        if let Some(old) = old {
            self.unlink_vips(&old);
        }
    }

    fn unlink_vips(&mut self, old: &Service) {
        for vip in &old.addresses {
            if self.by_vip.get(vip).is_some_and(|current| *current == old.key) {
                self.by_vip.remove(vip);
            }
        }
    }
}
