//! The endpoints of a service, and the choice among them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use rand::Rng;

use crate::balancing::{Balancing, Via};
use crate::load::{InUse, Load};
use crate::membership::Membership;
use crate::workload::Workload;

/// The requirements for an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The service's port.
    pub port: u16,
    /// An IPv4 address is preferred to an IPv6 one.
    pub v4: bool,
    /// UIDs of excluded endpoints.
    pub tried: &'a [Arc<str>],
    /// The client.
    pub client: Client<'a>,
}

/// The client that needs an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Client<'a> {
    /// Its address, if known.
    pub address: Option<IpAddr>,
    /// Its node; empty if unknown.
    pub node: &'a str,
    /// Its zone; empty if unknown.
    pub zone: &'a str,
    /// The address by which it reaches the service.
    pub via: Via,
}

/// Which endpoints suit the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near<'a> {
    /// All endpoints equally.
    All,
    /// Only endpoints of the client's node (`internalTrafficPolicy: Local`).
    Local(&'a str),
    /// Endpoints with a hint for the client's node; others only if none of these can be reached.
    Node(&'a str),
    /// Endpoints with a hint for the client's zone; others only if none of these can be reached.
    Zone(&'a str),
}

impl Near<'_> {
    fn has(self, candidate: &Candidate) -> bool {
        let Candidate {
            workload, membership, ..
        } = candidate;
        match self {
            Self::All => true,
            Self::Local(node) => !node.is_empty() && workload.node == node,
            Self::Node(node) => membership.nodes.iter().any(|hint| hint == node),
            Self::Zone(zone) => membership.zones.iter().any(|hint| hint == zone),
        }
    }
}

/// A client with session affinity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sticky<'a> {
    pub(crate) client: IpAddr,
    /// The UID of its last endpoint.
    pub(crate) kept: Option<&'a str>,
}

/// A chosen endpoint; counts as in use until this is dropped.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Address and port of the application.
    pub target: SocketAddr,
    /// Results of the connection are reported here.
    pub in_use: InUse,
    /// Other endpoints may be available.
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
    /// Number of healthy endpoints with hints for zones, and for nodes.
    hinted: Hinted,
}

#[derive(Debug, Default)]
struct Hinted {
    zones: usize,
    nodes: usize,
}

#[derive(Debug)]
struct Candidate {
    workload: Arc<Workload>,
    membership: Arc<Membership>,
    /// The load of the workload, over all of its services.
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
        let side = if membership.is_ready(workload.healthy) {
            self.hinted.zones += usize::from(!membership.zones.is_empty());
            self.hinted.nodes += usize::from(!membership.nodes.is_empty());
            &mut self.healthy
        } else {
            &mut self.unhealthy
        };
        side.insert(Arc::clone(&workload.uid), candidate);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        match self.healthy.swap_remove(uid) {
            Some(Candidate { membership, .. }) => {
                self.hinted.zones -= usize::from(!membership.zones.is_empty());
                self.hinted.nodes -= usize::from(!membership.nodes.is_empty());
            }
            None => {
                self.unhealthy.swap_remove(uid);
            }
        }
    }

    /// As in kube-proxy: hints count if every ready endpoint has one, and one of them is for the client. Hints for
    /// nodes precede those for zones.
    fn near<'a>(&self, balancing: &Balancing, query: &Query<'a>) -> Near<'a> {
        let Client { node, zone, via, .. } = query.client;
        if balancing.local && via == Via::ClusterIp {
            return Near::Local(node);
        }
        let all = self.healthy.len();
        let counts = |near: Near<'_>| self.healthy.values().any(|candidate| near.has(candidate));
        if all > 0 && self.hinted.nodes == all && counts(Near::Node(node)) {
            return Near::Node(node);
        }
        if all > 0 && self.hinted.zones == all && counts(Near::Zone(zone)) {
            return Near::Zone(zone);
        }
        Near::All
    }

    /// If neither of two endpoints drawn at random is suitable (no such port, tried before, failing): the first
    /// suitable one, starting at a random position; failing ones only if there is no other.
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
        let near = self.near(balancing, query);
        if near != Near::All || sticky.is_some() {
            return self.choose_among(count, near, fallback_port, query, sticky);
        }
        let mut rng = rand::rng();
        let first = rng.random_range(0..count);
        // A different one from the first.
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

    /// As [`choose`](Self::choose), but not all suitable endpoints are equal: failing ones come last, and of the others
    /// those that suit the client come first. A client with affinity gets its last endpoint, or one that follows from
    /// its address, the same in every proxy.
    fn choose_among(
        &self,
        count: usize,
        near: Near<'_>,
        fallback_port: Option<u16>,
        query: &Query<'_>,
        sticky: Option<Sticky<'_>>,
    ) -> Option<Endpoint> {
        let now = Instant::now();
        let usable = (0..count).filter_map(|index| self.usable(index, fallback_port, query));
        let usable: Vec<_> = usable
            .map(|(candidate, target)| {
                let rank = (candidate.load.is_failing(now), !near.has(candidate));
                (rank, candidate, target)
            })
            .filter(|((_, elsewhere), ..)| !(*elsewhere && matches!(near, Near::Local(_))))
            .collect();
        let best = usable.iter().map(|(rank, ..)| *rank).min()?;
        let alike: Vec<_> = usable.iter().filter(|(rank, ..)| *rank == best).collect();
        let kept = alike
            .iter()
            .find(|(_, c, _)| sticky.and_then(|sticky| sticky.kept) == Some(&*c.workload.uid));
        let chosen = match sticky {
            Some(sticky) => kept.copied().or_else(|| {
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
            // The slice's condition of the endpoint itself precedes `publishNotReadyAddresses`, which is about pods.
            None => {
                let (_, candidate) = self.unhealthy.get_index(index - self.healthy.len())?;
                candidate.membership.ready.is_none().then_some(candidate)?
            }
        };
        if query.tried.contains(&candidate.workload.uid) {
            return None;
        }
        // A named target port may have another number on each endpoint, so the endpoint's own number precedes.
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
