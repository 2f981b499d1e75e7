//! The endpoints of a service, and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;
use rand::Rng;

use super::service::{Service, ServicePort};
use super::workload::Workload;

/// A service with its endpoints; either may arrive first.
#[derive(Debug, Default)]
pub(super) struct ServiceEntry {
    service: Option<Arc<Service>>,
    /// By UID. Changed in place, so that choosing never builds a list.
    healthy: IndexMap<Arc<str>, Endpoint>,
    unhealthy: IndexMap<Arc<str>, Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    workload: Arc<Workload>,
    ports: Arc<[ServicePort]>,
    connections: Arc<AtomicUsize>,
}

/// Counts a connection towards its endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(Arc<AtomicUsize>);

impl InUse {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) struct Choice {
    pub(super) workload: Arc<Workload>,
    pub(super) target: SocketAddr,
    pub(super) in_use: InUse,
    /// There may be other endpoints that would do.
    pub(super) others: bool,
}

impl Choice {
    /// An endpoint that is no service's.
    pub(super) fn only(workload: Arc<Workload>, target: SocketAddr) -> Self {
        Self {
            workload,
            target,
            in_use: InUse::new(&Arc::default()),
            others: false,
        }
    }
}

impl ServiceEntry {
    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    pub(super) fn set_service(&mut self, service: Option<Arc<Service>>) {
        self.service = service;
    }

    pub(super) fn is_unused(&self) -> bool {
        self.service.is_none() && self.healthy.is_empty() && self.unhealthy.is_empty()
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<str>> {
        self.healthy.keys().chain(self.unhealthy.keys())
    }

    pub(super) fn set_endpoint(&mut self, workload: &Arc<Workload>, ports: &Arc<[ServicePort]>) {
        let connections = self.remove_endpoint(&workload.uid).unwrap_or_default();
        let endpoint = Endpoint {
            workload: Arc::clone(workload),
            ports: Arc::clone(ports),
            connections,
        };
        let side = if workload.healthy {
            &mut self.healthy
        } else {
            &mut self.unhealthy
        };
        side.insert(Arc::clone(&workload.uid), endpoint);
    }

    pub(super) fn remove_endpoint(&mut self, uid: &str) -> Option<Arc<AtomicUsize>> {
        let removed = self
            .healthy
            .swap_remove(uid)
            .or_else(|| self.unhealthy.swap_remove(uid));
        removed.map(|endpoint| endpoint.connections)
    }

    /// The better of two endpoints drawn at random: the one with fewer connections from here. Where neither will do (no such
    /// port, tried before), the first that will, from a random one on.
    pub(super) fn choose(&self, service_port: u16, v4: bool, tried: &[Arc<str>]) -> Option<Choice> {
        let ignore_health = self.service.as_ref().is_some_and(|service| service.ignore_health);
        let count = self.healthy.len() + if ignore_health { self.unhealthy.len() } else { 0 };
        if count == 0 {
            return None;
        }
        let mut rng = rand::rng();
        let (first, second) = (rng.random_range(0..count), rng.random_range(0..count));
        let usable = |index| self.usable(index, service_port, v4, tried);
        let drawn = match (usable(first), usable(second)) {
            (Some(a), Some(b)) => Some(if b.0.load() < a.0.load() { b } else { a }),
            (a, b) => a.or(b),
        };
        let (endpoint, target) =
            drawn.or_else(|| (0..count).find_map(|step| usable((first + step) % count)))?;
        Some(Choice {
            workload: Arc::clone(&endpoint.workload),
            target,
            in_use: InUse::new(&endpoint.connections),
            others: count > tried.len() + 1,
        })
    }

    fn usable(
        &self,
        index: usize,
        port: u16,
        v4: bool,
        tried: &[Arc<str>],
    ) -> Option<(&Endpoint, SocketAddr)> {
        let endpoint = match self.healthy.get_index(index) {
            Some((_, endpoint)) => endpoint,
            None => self.unhealthy.get_index(index - self.healthy.len())?.1,
        };
        if tried.contains(&endpoint.workload.uid) {
            return None;
        }
        let target_port = self.target_port(endpoint, port)?;
        let addresses = &endpoint.workload.addresses;
        let address = addresses
            .iter()
            .find(|ip| ip.is_ipv4() == v4)
            .or(addresses.first())?;
        Some((endpoint, SocketAddr::new(*address, target_port)))
    }

    /// A named target port may be another number on each endpoint, so the endpoint's word goes first.
    fn target_port(&self, endpoint: &Endpoint, port: u16) -> Option<u16> {
        let find = |ports: &[ServicePort]| {
            ports
                .iter()
                .find(|p| p.service_port == port)
                .map(|p| p.target_port)
        };
        let own = find(&endpoint.ports);
        let of_service = || self.service.as_ref().and_then(|service| find(&service.ports));
        own.or_else(of_service).filter(|target| *target != 0)
    }
}

impl Endpoint {
    fn load(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
