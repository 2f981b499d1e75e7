//! The endpoints of a service, and the choice among them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use rand::Rng;

use crate::frontend::{Balancing, Membership, Nodes};
use crate::load::{InUse, Load};
use crate::workload::Workload;

/// What an endpoint is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The service's port.
    pub port: u16,
    /// An IPv4 address is preferred; else an IPv6 one.
    pub v4: bool,
    /// UIDs of endpoints that are left out.
    pub tried: &'a [Arc<str>],
    /// Who looks for it.
    pub client: Client<'a>,
}

/// Who an endpoint is looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Client<'a> {
    /// Its address, if known.
    pub address: Option<IpAddr>,
    /// Its node; empty where it is not known.
    pub node: &'a str,
}

/// A client that is to keep its endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sticky<'a> {
    pub(crate) client: IpAddr,
    /// The UID of the one that it had.
    pub(crate) kept: Option<&'a str>,
}

/// An endpoint that was chosen; counts as in use until this is dropped.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Who is there.
    pub workload: Arc<Workload>,
    /// Address and port of the application.
    pub target: SocketAddr,
    /// What is known of the endpoint is reported here.
    pub in_use: InUse,
    /// There may be other endpoints that would do.
    pub others: bool,
}

impl Endpoint {
    pub(crate) fn new(workload: &Arc<Workload>, target: SocketAddr, load: &Arc<Load>) -> Self {
        Self {
            workload: Arc::clone(workload),
            target,
            in_use: InUse::new(load),
            others: false,
        }
    }
}

/// By UID. Changed in place, so that choosing never builds a list.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    healthy: IndexMap<Arc<str>, Candidate>,
    unhealthy: IndexMap<Arc<str>, Candidate>,
}

#[derive(Debug)]
struct Candidate {
    workload: Arc<Workload>,
    membership: Arc<Membership>,
    /// The workload's, over all of its services.
    load: Arc<Load>,
}

impl Endpoints {
    pub(crate) fn is_empty(&self) -> bool {
        self.healthy.is_empty() && self.unhealthy.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<Workload>, usize)> {
        let all = self.healthy.values().chain(self.unhealthy.values());
        all.map(|candidate| (&candidate.workload, candidate.load.in_use()))
    }

    pub(crate) fn set(&mut self, workload: &Arc<Workload>, membership: &Arc<Membership>, load: &Arc<Load>) {
        self.remove(&workload.uid);
        let candidate = Candidate {
            workload: Arc::clone(workload),
            membership: Arc::clone(membership),
            load: Arc::clone(load),
        };
        let side = if membership.is_ready(workload) {
            &mut self.healthy
        } else {
            &mut self.unhealthy
        };
        side.insert(Arc::clone(&workload.uid), candidate);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        if self.healthy.swap_remove(uid).is_none() {
            self.unhealthy.swap_remove(uid);
        }
    }

    /// Where neither of two drawn at random will do (no such port, tried before, failing), the first that will, from a random one on;
    /// failing ones only where there is no other.
    pub(crate) fn choose(
        &self,
        balancing: &Balancing,
        fallback_port: Option<u16>,
        query: &Query<'_>,
        sticky: Option<Sticky<'_>>,
    ) -> Option<Endpoint> {
        let unhealthy = if balancing.unready_too {
            self.unhealthy.len()
        } else {
            0
        };
        let count = self.healthy.len() + unhealthy;
        if count == 0 {
            return None;
        }
        if balancing.nodes != Nodes::Any || sticky.is_some() {
            return self.choose_among(count, balancing.nodes, fallback_port, query, sticky);
        }
        let mut rng = rand::rng();
        let first = rng.random_range(0..count);
        // Another one than the first.
        let second = (first + rng.random_range(0..count.max(2) - 1) + 1) % count;
        let now = Instant::now();
        let usable = |index| self.usable(index, fallback_port, query);
        let failing = |choice: &(&Candidate, SocketAddr)| choice.0.load.is_failing(now);
        let all = || (0..count).filter_map(|step| usable((first + step) % count));
        let drawn = [usable(first), usable(second)]
            .into_iter()
            .flatten()
            .min_by_key(|choice| (failing(choice), choice.0.load.in_use()));
        let (candidate, target) = drawn
            .filter(|choice| !failing(choice))
            .or_else(|| all().find(|choice| !failing(choice)))
            .or_else(|| all().next())?;
        Some(Endpoint {
            others: count > query.tried.len() + 1,
            ..Endpoint::new(&candidate.workload, target, &candidate.load)
        })
    }

    /// As [`choose`](Self::choose), where not all that will do are alike: failing ones last, and of the others the client's node first where
    /// it is preferred. A sticky client gets the one that it had, or else one that follows from its address, on every proxy the same.
    fn choose_among(
        &self,
        count: usize,
        nodes: Nodes,
        fallback_port: Option<u16>,
        query: &Query<'_>,
        sticky: Option<Sticky<'_>>,
    ) -> Option<Endpoint> {
        let node = query.client.node;
        let is_local = |candidate: &Candidate| !node.is_empty() && candidate.workload.node == node;
        let now = Instant::now();
        let usable = (0..count).filter_map(|index| self.usable(index, fallback_port, query));
        let usable: Vec<_> = usable
            .filter(|(candidate, _)| nodes != Nodes::Only || is_local(candidate))
            .map(|(candidate, target)| {
                let elsewhere = nodes == Nodes::Prefer && !is_local(candidate);
                ((candidate.load.is_failing(now), elsewhere), candidate, target)
            })
            .collect();
        let best = usable.iter().map(|(rank, ..)| *rank).min()?;
        let kept = usable.iter().find(|((failing, _), candidate, _)| {
            !failing && sticky.and_then(|sticky| sticky.kept) == Some(&*candidate.workload.uid)
        });
        let alike: Vec<_> = usable.iter().filter(|(rank, ..)| *rank == best).collect();
        let chosen = match sticky {
            Some(sticky) => kept.or_else(|| {
                let weight = |uid: &str| {
                    let mut hasher = DefaultHasher::new();
                    (sticky.client, uid).hash(&mut hasher);
                    hasher.finish()
                };
                alike.into_iter().max_by_key(|(_, c, _)| weight(&c.workload.uid))
            }),
            None => {
                let mut rng = rand::rng();
                let first = rng.random_range(0..alike.len());
                let second = (first + rng.random_range(0..alike.len().max(2) - 1) + 1) % alike.len();
                let drawn = [alike[first], alike[second]];
                drawn.into_iter().min_by_key(|(_, c, _)| c.load.in_use())
            }
        };
        let (_, candidate, target) = chosen?;
        Some(Endpoint {
            others: usable.len() > 1,
            ..Endpoint::new(&candidate.workload, *target, &candidate.load)
        })
    }

    fn usable(
        &self,
        index: usize,
        fallback_port: Option<u16>,
        query: &Query<'_>,
    ) -> Option<(&Candidate, SocketAddr)> {
        let candidate = match self.healthy.get_index(index) {
            Some((_, candidate)) => candidate,
            None => self.unhealthy.get_index(index - self.healthy.len())?.1,
        };
        if query.tried.contains(&candidate.workload.uid) {
            return None;
        }
        // A named target port may be another number on each endpoint, so the endpoint's word goes first.
        let own = candidate
            .membership
            .ports
            .iter()
            .find(|p| p.service_port == query.port);
        let port = own
            .map(|p| p.target_port)
            .or(fallback_port)
            .filter(|port| *port != 0)?;
        let addresses = &candidate.workload.addresses;
        let address = addresses
            .iter()
            .find(|ip| ip.is_ipv4() == query.v4)
            .or(addresses.first())?;
        Some((candidate, SocketAddr::new(*address, port)))
    }
}
