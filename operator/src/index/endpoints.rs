//! Which pods stand behind which Services, from EndpointSlices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::{EndpointRecord, Key, ServiceRecord, SliceRecord};
use ambit_wire::workload::{EndpointHealth, Port, PortList};

/// All EndpointSlices, by Service, and the way back from pods.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Service → slice's name → slice.
    by_service: BTreeMap<Key, BTreeMap<String, SliceRecord>>,
    /// Slice → Service.
    service_of: BTreeMap<Key, Key>,
    /// Pod → Services.
    by_pod: BTreeMap<Key, BTreeSet<Key>>,
    /// Slices by the addresses that they do not say to be a pod's.
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
}

impl Endpoints {
    /// Sets or removes a slice; the pods whose Services may have changed by it.
    pub(super) fn set(&mut self, slice: &Key, record: Option<SliceRecord>) -> BTreeSet<Key> {
        let old = self.service_of.get(slice).cloned();
        let new = record.as_ref().map(|r| slice.sibling(&r.service));
        let services: BTreeSet<Key> = old.iter().chain(&new).cloned().collect();
        if let (Some(service), Some(record)) = (&old, &record)
            && new.as_ref() == Some(service)
            && self.get(slice) == Some(record)
        {
            return BTreeSet::new();
        }
        let mut touched = self.pods_of(&services);
        for address in self.get(slice).map(bare).unwrap_or_default() {
            if let Some(slices) = self.by_address.get_mut(&address) {
                slices.remove(slice);
                if slices.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for address in record.as_ref().map(bare).unwrap_or_default() {
            self.by_address.entry(address).or_default().insert(slice.clone());
        }
        if let Some(service) = self.service_of.remove(slice)
            && let Some(slices) = self.by_service.get_mut(&service)
        {
            slices.remove(&slice.name);
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
        if let (Some(service), Some(record)) = (new, record) {
            self.by_service
                .entry(service.clone())
                .or_default()
                .insert(slice.name.clone(), record);
            self.service_of.insert(slice.clone(), service);
        }
        let now = self.pods_of(&services);
        for pod in touched.iter().chain(&now) {
            let mut of_pod = self.by_pod.remove(pod).unwrap_or_default();
            for service in &services {
                if self.lists(service, &pod.name) {
                    of_pod.insert(service.clone());
                } else {
                    of_pod.remove(service);
                }
            }
            if !of_pod.is_empty() {
                self.by_pod.insert(pod.clone(), of_pod);
            }
        }
        touched.extend(now);
        touched
    }

    /// A slice.
    pub(super) fn get(&self, slice: &Key) -> Option<&SliceRecord> {
        self.by_service.get(self.service_of.get(slice)?)?.get(&slice.name)
    }

    /// The slices of a Service.
    pub(super) fn slices(&self, service: &Key) -> impl Iterator<Item = Key> {
        self.by_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(|name| service.sibling(name))
    }

    /// The slices that list this address without a pod.
    pub(super) fn slices_at(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// The pods behind a Service, ready or not.
    pub(super) fn pods(&self, service: &Key) -> BTreeSet<Key> {
        self.pods_of(std::iter::once(service))
    }

    /// Addresses behind a Service that are not said to be a pod's.
    pub(super) fn bare(&self, service: &Key) -> BTreeSet<IpAddr> {
        let slices = self
            .by_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        let bare = slices.flat_map(|s| &s.endpoints).filter(|e| e.pod.is_none());
        bare.flat_map(|e| &e.addresses).copied().collect()
    }

    /// The Services in front of a pod, ready or not.
    pub(super) fn services(&self, pod: &Key) -> impl Iterator<Item = &Key> {
        self.by_pod.get(pod).into_iter().flatten()
    }

    /// How a pod, which is `ready` or not, takes connections for a Service; `None` while it takes none. A pod that is on its way out does
    /// only where no other is ready.
    pub(super) fn membership(
        &self,
        service: &Key,
        record: &ServiceRecord,
        pod: &str,
        ready: bool,
    ) -> Option<PortList> {
        let slices = self.by_service.get(service)?;
        let mut found = BTreeMap::new();
        let mut listed: Option<EndpointRecord> = None;
        let mut by_hand = false;
        for slice in slices.values() {
            let of_pod = slice.endpoints.iter().filter(|e| e.pod.as_deref() == Some(pod));
            for endpoint in of_pod.filter(|e| self.takes(service, record, e)) {
                found.extend(ports(record, slice));
                by_hand |= slice.by_hand;
                match &mut listed {
                    None => listed = Some(endpoint.clone()),
                    // A slice for each family of addresses, for one.
                    Some(listed) => listed.ready |= endpoint.ready,
                }
            }
        }
        let endpoint = listed?;
        let takes = takes_connections(&endpoint);
        // What Kubernetes itself writes follows the pod, a moment later: a pod that is not ready any more is not used until then.
        let late = takes && !ready && !by_hand && !record.unready_too && !endpoint.terminating;
        let health = match late || (takes == ready && !record.unready_too) {
            true => EndpointHealth::AsWorkload,
            false => health(&endpoint),
        };
        Some(port_list(found.into_values().collect(), &endpoint, health))
    }

    /// Whether an endpoint is listed. One that is not ready stays listed (it is unhealthy then, which a Service may overlook). One that is on its
    /// way out is where no other is ready; where only endpoints of the client's node count, no other of its node.
    pub(super) fn takes(&self, service: &Key, record: &ServiceRecord, endpoint: &EndpointRecord) -> bool {
        let slices = self.by_service.get(service).into_iter();
        let mut all = slices.flat_map(BTreeMap::values).flat_map(|s| &s.endpoints);
        let is_instead = |e: &EndpointRecord| e.ready && (!record.local || e.node == endpoint.node);
        endpoint.ready || !endpoint.terminating || (endpoint.serving && !all.any(is_instead))
    }

    /// Ports of a pod that the Service leads to, whether or not the pod takes connections for it now.
    pub(super) fn targets(&self, service: &Key, record: &ServiceRecord, pod: &str) -> BTreeSet<u16> {
        let slices = self
            .by_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        slices
            .filter(|s| s.endpoints.iter().any(|e| e.pod.as_deref() == Some(pod)))
            .flat_map(|s| record.ports.keys().filter_map(|name| s.ports.get(name)).copied())
            .collect()
    }

    /// The same for all pods of a Service, and for the addresses behind it that are not said to be a pod's.
    pub(super) fn reached(
        &self,
        service: &Key,
        record: &ServiceRecord,
    ) -> (BTreeMap<String, BTreeSet<u16>>, BTreeMap<IpAddr, BTreeSet<u16>>) {
        let (mut pods, mut bare) = (BTreeMap::new(), BTreeMap::new());
        let slices = self.by_service.get(service).into_iter();
        for slice in slices.flat_map(BTreeMap::values) {
            let targets = || {
                record
                    .ports
                    .keys()
                    .filter_map(|name| slice.ports.get(name))
                    .copied()
            };
            for endpoint in &slice.endpoints {
                if let Some(pod) = &endpoint.pod {
                    let ports: &mut BTreeSet<u16> = pods.entry(pod.clone()).or_default();
                    ports.extend(targets());
                    continue;
                }
                for address in &endpoint.addresses {
                    let ports: &mut BTreeSet<u16> = bare.entry(*address).or_default();
                    ports.extend(targets());
                }
            }
        }
        (pods, bare)
    }

    /// Whether a slice of the Service says another port than these.
    pub(super) fn strays(&self, service: &Key, record: &ServiceRecord, ports: &BTreeSet<u16>) -> bool {
        let slices = self
            .by_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        let mut targets = slices.flat_map(|s| record.ports.keys().filter_map(|name| s.ports.get(name)));
        targets.any(|target| !ports.contains(target))
    }

    fn pods_of<'a>(&self, services: impl IntoIterator<Item = &'a Key>) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        for service in services {
            let slices = self
                .by_service
                .get(service)
                .into_iter()
                .flat_map(BTreeMap::values);
            found.extend(
                slices
                    .flat_map(|s| &s.endpoints)
                    .filter_map(|e| Some(service.sibling(e.pod.as_ref()?))),
            );
        }
        found
    }

    fn lists(&self, service: &Key, pod: &str) -> bool {
        let slices = self
            .by_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values);
        slices
            .flat_map(|s| &s.endpoints)
            .any(|e| e.pod.as_deref() == Some(pod))
    }
}

/// Of an endpoint that is listed: one that is on its way out is listed where it has to do.
fn takes_connections(endpoint: &EndpointRecord) -> bool {
    endpoint.ready || endpoint.terminating
}

pub(super) fn health(endpoint: &EndpointRecord) -> EndpointHealth {
    match takes_connections(endpoint) {
        true => EndpointHealth::Ready,
        false => EndpointHealth::NotReady,
    }
}

/// How an endpoint takes connections on these ports.
pub(super) fn port_list(ports: Vec<Port>, endpoint: &EndpointRecord, health: EndpointHealth) -> PortList {
    PortList {
        ports,
        health: health.into(),
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
    }
}

fn bare(slice: &SliceRecord) -> BTreeSet<IpAddr> {
    let bare = slice.endpoints.iter().filter(|e| e.pod.is_none());
    bare.flat_map(|e| &e.addresses).copied().collect()
}

/// The Service's ports as a slice resolves them, by number.
pub(super) fn ports(service: &ServiceRecord, slice: &SliceRecord) -> BTreeMap<u16, Port> {
    let resolved = service.ports.iter().filter_map(|(name, port)| {
        let target = slice.ports.get(name)?;
        let port_map = Port {
            service_port: port.port.into(),
            target_port: (*target).into(),
            app_protocol: port.protocol.into(),
        };
        Some((port.port, port_map))
    });
    resolved.collect()
}
