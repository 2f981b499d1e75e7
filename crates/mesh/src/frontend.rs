//! The part of a service that both proxies need.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ambit_wire::workload as wire;
use arc_swap::ArcSwapOption;
use parking_lot::RwLock;

use crate::affinity::Affinity;
use crate::balance::{Endpoint, Endpoints, Query, Sticky};
use crate::balancing::Balancing;
use crate::invalid::{Invalid, ip};
use crate::workload::Workload;

/// A service, as one proxy needs it.
pub trait Frontend: fmt::Debug + Send + Sync + 'static {
    /// `<namespace>/<hostname>`, as workloads name it.
    fn key(&self) -> &Arc<str>;

    /// Its virtual addresses.
    fn addresses(&self) -> &[IpAddr];

    /// Addresses outside of the cluster, with the ports on which they lead here.
    fn external(&self) -> &[(IpAddr, u16)];

    /// How its endpoints are chosen.
    fn balancing(&self) -> &Balancing;

    /// The target of a port on endpoints without one of their own.
    fn target_port(&self, service_port: u16) -> Option<u16>;
}

/// A service while it, or an endpoint of it, is in the configuration. Either may come first.
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
    /// The current version of the service; `None` if there is none.
    pub fn config(&self) -> Option<Arc<F>> {
        self.config.load_full()
    }

    /// Replaces the version, under the same key and with the same addresses.
    pub fn set_config(&self, config: Option<Arc<F>>) {
        self.config.store(config);
    }

    /// The better of two endpoints drawn at random: the one with less in use from this proxy that has not failed.
    /// Endpoints that the query excludes are never chosen. `None`: no endpoint is suitable.
    pub fn choose(&self, query: &Query<'_>) -> Option<Endpoint> {
        let config = self.config.load();
        let config = config.as_deref();
        let none = Balancing::default();
        let balancing = config.map_or(&none, Frontend::balancing);
        let fallback = config.and_then(|config| config.target_port(query.port));
        self.choose_with(balancing, fallback, query)
    }

    /// The same for a service that is not a frontend, balanced as given.
    pub fn choose_by(&self, balancing: &Balancing, query: &Query<'_>) -> Option<Endpoint> {
        self.choose_with(balancing, None, query)
    }

    fn choose_with(
        &self,
        balancing: &Balancing,
        fallback: Option<u16>,
        query: &Query<'_>,
    ) -> Option<Endpoint> {
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

    /// Every endpoint, with its number of uses.
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
