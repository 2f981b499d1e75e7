//! The endpoints of a service, and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use rand::Rng;

use super::load::{InUse, Load};
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
    load: Arc<Load>,
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
        let load = self.remove_endpoint(&workload.uid).unwrap_or_default();
        load.forgive();
        let endpoint = Endpoint {
            workload: Arc::clone(workload),
            ports: Arc::clone(ports),
            load,
        };
        let side = if workload.healthy {
            &mut self.healthy
        } else {
            &mut self.unhealthy
        };
        side.insert(Arc::clone(&workload.uid), endpoint);
    }

    pub(super) fn remove_endpoint(&mut self, uid: &str) -> Option<Arc<Load>> {
        let removed = self
            .healthy
            .swap_remove(uid)
            .or_else(|| self.unhealthy.swap_remove(uid));
        removed.map(|endpoint| endpoint.load)
    }

    /// The better of two endpoints drawn at random: the one with fewer connections from here. Where neither will do (no such
    /// port, tried before) or could be reached just now, the first that will, from a random one on.
    pub(super) fn choose(&self, service_port: u16, v4: bool, tried: &[Arc<str>]) -> Option<Choice> {
        let ignore_health = self.service.as_ref().is_some_and(|service| service.ignore_health);
        let count = self.healthy.len() + if ignore_health { self.unhealthy.len() } else { 0 };
        if count == 0 {
            return None;
        }
        let mut rng = rand::rng();
        let (first, second) = (rng.random_range(0..count), rng.random_range(0..count));
        let now = Instant::now();
        let usable = |index| self.usable(index, service_port, v4, tried);
        let failing = |choice: &(&Endpoint, SocketAddr)| choice.0.load.is_failing(now);
        let all = || (0..count).filter_map(|step| usable((first + step) % count));
        let drawn = [usable(first), usable(second)]
            .into_iter()
            .flatten()
            .min_by_key(|choice| (failing(choice), choice.0.load.connections()));
        let (endpoint, target) = drawn
            .filter(|choice| !failing(choice))
            .or_else(|| all().find(|choice| !failing(choice)))
            .or_else(|| all().next())?;
        Some(Choice {
            workload: Arc::clone(&endpoint.workload),
            target,
            in_use: InUse::new(&endpoint.load),
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
