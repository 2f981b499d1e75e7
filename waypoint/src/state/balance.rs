//! The endpoints of a service, and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;
use rand::Rng;

use super::workload::{PortMapping, Workload};

/// Where a request is sent; counts it as in flight there until this is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    /// Address and port of the application.
    pub(crate) target: SocketAddr,
    _in_use: InUse,
}

impl Endpoint {
    pub(super) fn new(workload: &Arc<Workload>, target: SocketAddr, in_flight: &Arc<AtomicUsize>) -> Self {
        Self {
            workload: Arc::clone(workload),
            target,
            _in_use: InUse::new(in_flight),
        }
    }
}

/// One request in flight at a workload.
#[derive(Debug)]
struct InUse(Arc<AtomicUsize>);

impl InUse {
    fn new(in_flight: &Arc<AtomicUsize>) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(in_flight))
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

/// By UID. Changed in place, so that choosing never builds a list.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    healthy: IndexMap<Arc<str>, Candidate>,
    unhealthy: IndexMap<Arc<str>, Candidate>,
}

#[derive(Debug)]
struct Candidate {
    workload: Arc<Workload>,
    ports: Arc<[PortMapping]>,
    /// The workload's, over all of its services.
    in_flight: Arc<AtomicUsize>,
}

impl Endpoints {
    pub(super) fn is_empty(&self) -> bool {
        self.healthy.is_empty() && self.unhealthy.is_empty()
    }

    /// Every endpoint, with its requests in flight.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<Workload>, usize)> {
        self.healthy
            .values()
            .chain(self.unhealthy.values())
            .map(|candidate| (&candidate.workload, candidate.load()))
    }

    pub(super) fn set(
        &mut self,
        workload: &Arc<Workload>,
        ports: &Arc<[PortMapping]>,
        in_flight: &Arc<AtomicUsize>,
    ) {
        self.remove(&workload.uid);
        let candidate = Candidate {
            workload: Arc::clone(workload),
            ports: Arc::clone(ports),
            in_flight: Arc::clone(in_flight),
        };
        let side = if workload.healthy {
            &mut self.healthy
        } else {
            &mut self.unhealthy
        };
        side.insert(Arc::clone(&workload.uid), candidate);
    }

    pub(super) fn remove(&mut self, uid: &str) {
        if self.healthy.swap_remove(uid).is_none() {
            self.unhealthy.swap_remove(uid);
        }
    }

    pub(super) fn choose(&self, port: u16, unready_too: bool, tried: &[Arc<str>]) -> Option<Endpoint> {
        let count = self.healthy.len() + if unready_too { self.unhealthy.len() } else { 0 };
        if count == 0 {
            return None;
        }
        let mut rng = rand::rng();
        let first = rng.random_range(0..count);
        // Another one than the first.
        let second = (first + rng.random_range(0..count.max(2) - 1) + 1) % count;
        let chosen = self.choose_from(count, first, second, port, tried).or_else(|| {
            (!tried.is_empty())
                .then(|| self.choose_from(count, first, second, port, &[]))
                .flatten()
        });
        let (candidate, target) = chosen?;
        Some(Endpoint::new(&candidate.workload, target, &candidate.in_flight))
    }

    /// Where neither of the two will do (no such port, tried before), the first that will, from a random one on.
    fn choose_from(
        &self,
        count: usize,
        first: usize,
        second: usize,
        port: u16,
        tried: &[Arc<str>],
    ) -> Option<(&Candidate, SocketAddr)> {
        let usable = |index| self.usable(index, port, tried);
        match (usable(first), usable(second)) {
            (Some(a), Some(b)) => Some(if b.0.load() < a.0.load() { b } else { a }),
            (a, b) => a
                .or(b)
                .or_else(|| (1..count).find_map(|step| usable((first + step) % count))),
        }
    }

    fn usable(&self, index: usize, port: u16, tried: &[Arc<str>]) -> Option<(&Candidate, SocketAddr)> {
        let candidate = match self.healthy.get_index(index) {
            Some((_, candidate)) => candidate,
            None => self.unhealthy.get_index(index - self.healthy.len())?.1,
        };
        if tried.contains(&candidate.workload.uid) {
            return None;
        }
        let mapping = candidate.ports.iter().find(|p| p.service == port)?;
        let address = candidate.workload.addresses.first()?;
        (mapping.target != 0).then(|| (candidate, SocketAddr::new(*address, mapping.target)))
    }
}

impl Candidate {
    fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}
