//! Which pods stand behind which Services, from EndpointSlices.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{EndpointRecord, Key, ServiceRecord, SliceRecord};
use ambit_wire::workload::{EndpointHealth, Port, PortList};

/// All EndpointSlices, by Service, and the way back from pods.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    by_service: BTreeMap<Key, OfService>,
    /// Slice → Service.
    service_of: BTreeMap<Key, Key>,
    /// Pod → slices that list it, sorted.
    by_pod: HashMap<Key, Vec<Arc<Key>>>,
    /// Slices by the addresses that they do not say to be a pod's.
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
}

/// The slices of one Service, by name, with counts over all of them.
#[derive(Debug, Default)]
struct OfService {
    slices: BTreeMap<String, SliceRecord>,
    /// Ready endpoints, by node.
    ready: HashMap<String, usize>,
    /// Endpoints on their way out: only these depend on other endpoints.
    terminating: usize,
}

/// What depends on a slice that changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Pods that may take connections otherwise than before.
    pub(super) pods: BTreeSet<Key>,
    /// Slices with endpoints that are not said to be pods, and may do so.
    pub(super) slices: BTreeSet<Key>,
}

impl OfService {
    fn insert(&mut self, name: &str, slice: SliceRecord) {
        for endpoint in &slice.endpoints {
            self.terminating += usize::from(endpoint.terminating);
            if endpoint.ready {
                *self.ready.entry(endpoint.node.clone()).or_default() += 1;
            }
        }
        self.slices.insert(name.to_owned(), slice);
    }

    fn remove(&mut self, name: &str) -> Option<SliceRecord> {
        let slice = self.slices.remove(name)?;
        for endpoint in &slice.endpoints {
            self.terminating -= usize::from(endpoint.terminating);
            if let Some(ready) = self.ready.get_mut(&endpoint.node).filter(|_| endpoint.ready) {
                *ready -= 1;
                if *ready == 0 {
                    self.ready.remove(&endpoint.node);
                }
            }
        }
        Some(slice)
    }
}

impl Endpoints {
    /// Sets or removes a slice. What is touched are the endpoints that differ, and those on their way out for which it
    /// matters whether others are ready.
    pub(super) fn set(&mut self, slice: &Key, record: Option<SliceRecord>) -> Touched {
        if self.get(slice) == record.as_ref() {
            return Touched::default();
        }
        let old = self.service_of.get(slice).cloned();
        let new = record.as_ref().map(|r| slice.sibling(&r.service));
        let services: BTreeSet<Key> = old.iter().chain(&new).cloned().collect();
        let leaving = record.iter().flat_map(|r| &r.endpoints).any(|e| e.terminating);
        let leaving = leaving
            || services
                .iter()
                .any(|s| self.by_service.get(s).is_some_and(|s| s.terminating > 0));
        let before: Vec<HashSet<String>> = match leaving {
            true => services.iter().map(|s| self.ready_nodes(s)).collect(),
            false => Vec::new(),
        };
        let removed = old.and_then(|service| self.remove(slice, &service));
        let mut touched = Touched {
            pods: differing(removed.as_ref(), record.as_ref())
                .into_iter()
                .filter_map(|endpoint| Some(slice.sibling(endpoint.pod.as_ref()?)))
                .collect(),
            slices: BTreeSet::from([slice.clone()]),
        };
        self.link(slice, removed.as_ref(), record.as_ref());
        if let (Some(service), Some(record)) = (new, record) {
            let of_service = self.by_service.entry(service.clone()).or_default();
            of_service.insert(&slice.name, record);
            self.service_of.insert(slice.clone(), service);
        }
        for (service, before) in services.iter().zip(before) {
            self.touch_leaving(service, &before, &mut touched);
        }
        touched
    }

    fn remove(&mut self, slice: &Key, service: &Key) -> Option<SliceRecord> {
        self.service_of.remove(slice);
        let of_service = self.by_service.get_mut(service)?;
        let record = of_service.remove(&slice.name);
        if of_service.slices.is_empty() {
            self.by_service.remove(service);
        }
        record
    }

    /// Follows a slice from the pods and addresses that it lists.
    fn link(&mut self, slice: &Key, old: Option<&SliceRecord>, new: Option<&SliceRecord>) {
        let (before, now) = (
            old.map(pods).unwrap_or_default(),
            new.map(pods).unwrap_or_default(),
        );
        for pod in before.difference(&now) {
            let pod = slice.sibling(pod);
            if let Some(slices) = self.by_pod.get_mut(&pod) {
                slices.retain(|other| **other != *slice);
                if slices.is_empty() {
                    self.by_pod.remove(&pod);
                }
            }
        }
        let shared = Arc::new(slice.clone());
        for pod in now.difference(&before) {
            let slices = self.by_pod.entry(slice.sibling(pod)).or_default();
            if let Err(place) = slices.binary_search(&shared) {
                slices.reserve_exact(1);
                slices.insert(place, Arc::clone(&shared));
            }
        }
        let (before, now) = (
            old.map(bare).unwrap_or_default(),
            new.map(bare).unwrap_or_default(),
        );
        for address in before.difference(&now) {
            if let Some(slices) = self.by_address.get_mut(address) {
                slices.remove(slice);
                if slices.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        for address in now.difference(&before) {
            self.by_address.entry(*address).or_default().insert(slice.clone());
        }
    }

    fn ready_nodes(&self, service: &Key) -> HashSet<String> {
        let of_service = self.by_service.get(service);
        of_service
            .into_iter()
            .flat_map(|s| s.ready.keys())
            .cloned()
            .collect()
    }

    /// Endpoints on their way out of which another set of nodes has ready ones.
    fn touch_leaving(&self, service: &Key, before: &HashSet<String>, touched: &mut Touched) {
        let Some(of_service) = self.by_service.get(service).filter(|s| s.terminating > 0) else {
            return;
        };
        let any = before.is_empty() != of_service.ready.is_empty();
        let on = |node: &str| before.contains(node) != of_service.ready.contains_key(node);
        for (name, slice) in &of_service.slices {
            let leaving = slice.endpoints.iter().filter(|e| e.terminating);
            for endpoint in leaving.filter(|e| any || on(&e.node)) {
                match &endpoint.pod {
                    Some(pod) => _ = touched.pods.insert(service.sibling(pod)),
                    None => _ = touched.slices.insert(service.sibling(name)),
                }
            }
        }
    }

    /// A slice.
    pub(super) fn get(&self, slice: &Key) -> Option<&SliceRecord> {
        let of_service = self.by_service.get(self.service_of.get(slice)?)?;
        of_service.slices.get(&slice.name)
    }

    /// The slices of a Service.
    pub(super) fn slices(&self, service: &Key) -> impl Iterator<Item = Key> {
        let of_service = self.by_service.get(service).into_iter();
        of_service
            .flat_map(|s| s.slices.keys())
            .map(|name| service.sibling(name))
    }

    /// The slices that list this address without a pod.
    pub(super) fn slices_at(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// The pods behind a Service, ready or not.
    pub(super) fn pods(&self, service: &Key) -> BTreeSet<Key> {
        let endpoints = self.of_service(service).flat_map(|s| &s.endpoints);
        endpoints
            .filter_map(|e| Some(service.sibling(e.pod.as_ref()?)))
            .collect()
    }

    /// Addresses behind a Service that are not said to be a pod's.
    pub(super) fn bare(&self, service: &Key) -> BTreeSet<IpAddr> {
        let slices = self.of_service(service);
        let bare = slices.flat_map(|s| &s.endpoints).filter(|e| e.pod.is_none());
        bare.flat_map(|e| &e.addresses).copied().collect()
    }

    /// The Services in front of a pod, ready or not.
    pub(super) fn services(&self, pod: &Key) -> impl Iterator<Item = &Key> {
        let slices = self.by_pod.get(pod).into_iter().flatten();
        let services: BTreeSet<&Key> = slices.filter_map(|slice| self.service_of.get(&**slice)).collect();
        services.into_iter()
    }

    /// The slices of a Service.
    fn of_service(&self, service: &Key) -> impl Iterator<Item = &SliceRecord> {
        self.by_service
            .get(service)
            .into_iter()
            .flat_map(|s| s.slices.values())
    }

    /// The slices of a Service that list a pod.
    fn of_pod(&self, service: &Key, pod: &str) -> impl Iterator<Item = &SliceRecord> {
        let slices = self.by_pod.get(&service.sibling(pod)).into_iter().flatten();
        let own = slices.filter(move |slice| self.service_of.get(&***slice) == Some(service));
        own.filter_map(|slice| self.get(slice))
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
        let mut found = BTreeMap::new();
        let mut listed: Option<EndpointRecord> = None;
        let mut by_hand = false;
        for slice in self.of_pod(service, pod) {
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
        let others = self.by_service.get(service).is_some_and(|s| match record.local {
            true => s.ready.contains_key(&endpoint.node),
            false => !s.ready.is_empty(),
        });
        endpoint.ready || !endpoint.terminating || (endpoint.serving && !others)
    }

    /// Ports of a pod that the Service leads to, whether or not the pod takes connections for it now.
    pub(super) fn targets(&self, service: &Key, record: &ServiceRecord, pod: &str) -> BTreeSet<u16> {
        self.of_pod(service, pod)
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
        for slice in self.of_service(service) {
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
        let slices = self.of_service(service);
        let mut targets = slices.flat_map(|s| record.ports.keys().filter_map(|name| s.ports.get(name)));
        targets.any(|target| !ports.contains(target))
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

/// The endpoints that one of two slices has and the other has not, or has otherwise.
fn differing<'a>(old: Option<&'a SliceRecord>, new: Option<&'a SliceRecord>) -> Vec<&'a EndpointRecord> {
    let both = old.zip(new);
    let comparable = both.is_some_and(|(old, new)| {
        (&old.service, &old.ports, old.by_hand) == (&new.service, &new.ports, new.by_hand)
    });
    let all = |slice: Option<&'a SliceRecord>| slice.into_iter().flat_map(|s| &s.endpoints);
    if !comparable {
        return all(old).chain(all(new)).collect();
    }
    let (old, new): (HashSet<_>, HashSet<_>) = (all(old).collect(), all(new).collect());
    old.symmetric_difference(&new).copied().collect()
}

fn pods(slice: &SliceRecord) -> HashSet<&str> {
    slice.endpoints.iter().filter_map(|e| e.pod.as_deref()).collect()
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
