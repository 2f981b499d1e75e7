//! Services, as far as both proxies need the same of them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_wire::workload as wire;
use ambit_wire::workload::load_balancing::{HealthPolicy, Mode, Scope};
use arc_swap::ArcSwapOption;
use parking_lot::RwLock;

use crate::affinity::Affinity;
use crate::balance::{Endpoint, Endpoints, Query, Sticky};
use crate::workload::{Invalid, Workload, ip};

/// A port of a service, and where it leads on its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's.
    pub service_port: u16,
    /// The endpoint's. 0: each endpoint says.
    pub target_port: u16,
}

impl TryFrom<wire::Port> for ServicePort {
    type Error = Invalid;

    fn try_from(from: wire::Port) -> Result<Self, Invalid> {
        let port = |number| u16::try_from(number).map_err(|_| Invalid::Port(number));
        Ok(Self {
            service_port: port(from.service_port)?,
            target_port: port(from.target_port)?,
        })
    }
}

/// What a workload is to a service in front of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Membership {
    /// Where the service's ports lead.
    pub ports: Box<[ServicePort]>,
    /// Whether it is ready as the service's endpoint, where that does not follow from the workload.
    pub(crate) ready: Option<bool>,
    /// Zones whose clients it is for (`hints.forZones`).
    pub(crate) zones: Box<[String]>,
    /// Nodes whose clients it is for (`hints.forNodes`).
    pub(crate) nodes: Box<[String]>,
}

impl Membership {
    pub(crate) fn is_ready(&self, workload: &Workload) -> bool {
        self.ready.unwrap_or(workload.healthy)
    }
}

impl TryFrom<wire::PortList> for Membership {
    type Error = Invalid;

    fn try_from(from: wire::PortList) -> Result<Self, Invalid> {
        let ready = match from.health() {
            wire::EndpointHealth::AsWorkload => None,
            wire::EndpointHealth::Ready => Some(true),
            wire::EndpointHealth::NotReady => Some(false),
        };
        let ports = from.ports.into_iter().map(ServicePort::try_from);
        Ok(Self {
            ports: ports.collect::<Result<_, _>>()?,
            ready,
            zones: from.for_zones.into(),
            nodes: from.for_nodes.into(),
        })
    }
}

/// By which of its addresses a service is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// Its cluster IP.
    #[default]
    ClusterIp,
    /// One of `externalIPs`, or a load balancer's: `internalTrafficPolicy` does not count.
    External,
}

/// How endpoints of a service are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Endpoints that are not ready are used like ready ones (`publishNotReadyAddresses`).
    pub unready_too: bool,
    /// Those of other nodes than the client's are never chosen (`internalTrafficPolicy: Local`).
    pub local: bool,
    /// A client keeps its endpoint until it has been quiet for so long (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
}

impl Balancing {
    /// With session affinity for so many seconds, if any.
    pub fn with_affinity(self, seconds: u32) -> Self {
        let affinity = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { affinity, ..self }
    }
}

impl From<Option<&wire::LoadBalancing>> for Balancing {
    fn from(from: Option<&wire::LoadBalancing>) -> Self {
        Self {
            unready_too: from.is_some_and(|b| b.health_policy() == HealthPolicy::AllowAll),
            local: from.is_some_and(|b| {
                b.mode() == Mode::Strict && b.routing_preference().next() == Some(Scope::Node)
            }),
            affinity: None,
        }
    }
}

/// What a proxy knows of a service.
pub trait Frontend: fmt::Debug + Send + Sync + 'static {
    /// `<namespace>/<hostname>`, as workloads name it.
    fn key(&self) -> &Arc<str>;

    /// Its virtual addresses.
    fn addresses(&self) -> &[IpAddr];

    /// Addresses outside of the cluster, with the ports on which they lead here.
    fn external(&self) -> &[(IpAddr, u16)];

    /// How its endpoints are chosen.
    fn balancing(&self) -> &Balancing;

    /// Where a port leads on endpoints that do not say.
    fn target_port(&self, service_port: u16) -> Option<u16>;
}

/// A service for as long as it, or an endpoint of it, is known. Either may come first.
#[derive(Debug)]
pub struct ServiceEntry<F> {
    config: ArcSwapOption<F>,
    endpoints: RwLock<Endpoints>,
    affinity: Affinity,
}

impl<F> Default for ServiceEntry<F> {
    fn default() -> Self {
        Self {
            config: ArcSwapOption::empty(),
            endpoints: RwLock::default(),
            affinity: Affinity::default(),
        }
    }
}

impl<F: Frontend> ServiceEntry<F> {
    /// The service as it is now; `None` where there is none (any more).
    pub fn config(&self) -> Option<Arc<F>> {
        self.config.load_full()
    }

    /// Puts another version in place, under the same key and with the same addresses.
    pub fn set_config(&self, config: Option<Arc<F>>) {
        self.config.store(config);
    }

    /// The better of two endpoints drawn at random: the one with less in use from here that has not failed. Endpoints that the query
    /// leaves out are never chosen. `None`: no endpoint will do.
    pub fn choose(&self, query: &Query<'_>) -> Option<Endpoint> {
        let config = self.config.load();
        let config = config.as_deref();
        let none = Balancing::default();
        let balancing = config.map_or(&none, Frontend::balancing);
        let fallback = config.and_then(|config| config.target_port(query.port));
        let endpoints = self.endpoints.read();
        let (Some(timeout), Some(client)) = (balancing.affinity, query.client.address) else {
            return endpoints.choose(balancing, fallback, query, None);
        };
        let (key, now) = ((client, query.port), Instant::now());
        let kept = self.affinity.get(key, timeout, now);
        let sticky = Sticky {
            client,
            kept: kept.as_deref(),
        };
        let endpoint = endpoints.choose(balancing, fallback, query, Some(sticky))?;
        self.affinity.set(key, &endpoint.workload.uid, timeout, now);
        Some(endpoint)
    }

    /// Every endpoint, with what is in use of it.
    pub fn endpoints(&self) -> Vec<(Arc<Workload>, usize)> {
        let endpoints = self.endpoints.read();
        endpoints
            .iter()
            .map(|(workload, in_use)| (Arc::clone(workload), in_use))
            .collect()
    }

    pub(crate) fn change_endpoints<T>(&self, change: impl FnOnce(&mut Endpoints) -> T) -> T {
        change(&mut self.endpoints.write())
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.config.load().is_none() && self.endpoints.read().is_empty()
    }
}

/// Addresses outside of the cluster, by port.
///
/// # Errors
/// [`Invalid::Ip`], [`Invalid::Port`]
pub fn external_addresses(from: &[wire::ExternalAddress]) -> Result<Vec<(IpAddr, u16)>, Invalid> {
    let mut found = Vec::new();
    for external in from {
        let address = ip(&external.address)?;
        for port in &external.ports {
            found.push((address, u16::try_from(*port).map_err(|_| Invalid::Port(*port))?));
        }
    }
    Ok(found)
}

/// `<namespace>/<hostname>`
pub fn service_key(namespace: &str, hostname: &str) -> Arc<str> {
    format!("{namespace}/{hostname}").into()
}
