//! What the index keeps of Services and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ambit_wire::workload::{AppProtocol, IpFamilies};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::PodRecord;
use super::applied::is_ours;
use super::external::{self, LeftField};
use super::waypoint::UseWaypoint;

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortRecord {
    pub(super) port: u16,
    /// 0 when it is a name.
    pub(super) target: u16,
    /// The name that it is, which every endpoint resolves by itself.
    pub(super) target_name: Option<String>,
    pub(super) protocol: AppProtocol,
}

/// What the index keeps of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// Virtual addresses; none for a headless Service.
    pub(super) addresses: Vec<IpAddr>,
    /// `externalIPs`, and those of a load balancer that lead to the nodes; none without a virtual address.
    pub(super) external: Vec<IpAddr>,
    /// Fields that the mesh leaves to others.
    pub(super) left: Vec<LeftField>,
    /// Seconds since the epoch.
    pub(super) created: i64,
    /// By port name (empty for the only port of a Service).
    pub(super) ports: BTreeMap<String, PortRecord>,
    pub(super) families: IpFamilies,
    /// `publishNotReadyAddresses`.
    pub(super) unready_too: bool,
    /// `internalTrafficPolicy: Local`.
    pub(super) local: bool,
    /// `sessionAffinity: ClientIP`, for so many seconds; 0: none.
    pub(super) affinity: u32,
    /// Labels of its pods; none where nobody keeps its endpoints.
    pub(super) selector: BTreeMap<String, String>,
    /// The waypoint that its labels ask for.
    pub(super) use_waypoint: Option<UseWaypoint>,
    /// Its labels say that the operator made it. That proves nothing: see `Index::is_waypoint_service`.
    pub(super) claims: bool,
}

impl ServiceRecord {
    /// The same with these ports alone, by number.
    pub(super) fn only(&self, ports: &BTreeSet<u16>) -> Self {
        let mut record = self.clone();
        record.ports.retain(|_, port| ports.contains(&port.port));
        record
    }

    /// The record of `service`; `None` for an ExternalName, which has no endpoints.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let meta = &service.metadata;
        let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key)).cloned();
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let all = spec.cluster_ips.clone().unwrap_or_default();
        let addresses = if all.is_empty() {
            spec.cluster_ip.iter().cloned().collect()
        } else {
            all
        };
        let mut addresses: Vec<IpAddr> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
        let balancers = external::balancers(service);
        let mut left = Vec::new();
        if label(external::PROXY_NAME).is_some() {
            addresses.clear();
            left.push(LeftField::ProxyName);
        }
        let ranges = spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .any(|range| !range.is_empty());
        let mut external: Vec<IpAddr> = Vec::new();
        if !addresses.is_empty() {
            external.extend(
                spec.external_ips
                    .iter()
                    .flatten()
                    .filter_map(|a| a.parse::<IpAddr>().ok()),
            );
            match ranges && !balancers.is_empty() {
                true => left.push(LeftField::SourceRanges),
                false => external.extend(balancers),
            }
        }
        external.sort();
        external.dedup();
        Some(Self {
            uid: meta.uid.clone().unwrap_or_default(),
            addresses,
            external,
            left,
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter(|p| is_tcp(p.protocol.as_deref()))
                .filter_map(port)
                .collect(),
            families: families(spec.ip_families.as_deref().unwrap_or_default()),
            unready_too: spec.publish_not_ready_addresses.unwrap_or_default(),
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affinity: affinity(spec),
            use_waypoint: UseWaypoint::of(label),
            selector: spec.selector.clone().unwrap_or_default(),
            claims: is_ours(meta),
        })
    }
}

impl ServiceRecord {
    /// Whether `pod` is one of its pods by label.
    pub(super) fn selects(&self, pod: &PodRecord) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
    }

    /// The ports of `pod` that it leads to once the pod is listed; `None` while one of them has a name that the pod does not declare.
    pub(super) fn targets(&self, pod: &PodRecord) -> Option<BTreeSet<u16>> {
        let target = |port: &PortRecord| match &port.target_name {
            Some(name) => pod.port(name),
            None => Some(port.target),
        };
        self.ports.values().map(target).collect()
    }

    /// Whether waypoints of its namespace may depend on it even where no policy targets it.
    pub(super) fn concerns_waypoints(&self) -> bool {
        self.claims || self.use_waypoint.is_some()
    }
}

fn affinity(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    // The API server's own default.
    seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
}

fn families(families: &[String]) -> IpFamilies {
    match families {
        [] => IpFamilies::Automatic,
        [_, _, ..] => IpFamilies::Dual,
        [one] if one == "IPv6" => IpFamilies::Ipv6Only,
        [_] => IpFamilies::Ipv4Only,
    }
}

fn port(port: &ServicePort) -> Option<(String, PortRecord)> {
    let number = u16::try_from(port.port).ok()?;
    let (target, target_name) = match &port.target_port {
        None => (number, None),
        Some(IntOrString::Int(target)) => (u16::try_from(*target).ok()?, None),
        Some(IntOrString::String(name)) => (0, Some(name.clone())),
    };
    let protocol = app_protocol(port.app_protocol.as_deref());
    Some((
        port.name.clone().unwrap_or_default(),
        PortRecord {
            port: number,
            target,
            target_name,
            protocol,
        },
    ))
}

fn app_protocol(name: Option<&str>) -> AppProtocol {
    match name.map(str::to_ascii_lowercase).as_deref() {
        Some("http" | "kubernetes.io/ws") => AppProtocol::Http11,
        Some("http2" | "h2c" | "kubernetes.io/h2c") => AppProtocol::Http2,
        Some("grpc" | "grpc-web") => AppProtocol::Grpc,
        Some("tcp") => AppProtocol::Tcp,
        Some("tls" | "https" | "kubernetes.io/wss") => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}

pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

/// What an EndpointSlice says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointRecord {
    /// Name of the pod, in the slice's namespace; `None` for an endpoint that is no pod.
    pub pod: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its node; empty where none is said.
    pub node: String,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be on its way out.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// Zones whose clients it is for.
    pub for_zones: Vec<String>,
    /// Nodes whose clients it is for.
    pub for_nodes: Vec<String>,
}

/// What the index keeps of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// Name of the Service, in the slice's namespace.
    pub service: String,
    /// TCP ports: name of the Service's port → number at the endpoints.
    pub ports: BTreeMap<String, u16>,
    /// The endpoints.
    pub endpoints: Vec<EndpointRecord>,
    /// Not Kubernetes' own controller keeps it.
    pub by_hand: bool,
}

impl SliceRecord {
    /// The record of `slice`; `None` when it belongs to no Service or holds names instead of addresses.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get("kubernetes.io/service-name")?.clone();
        let keeper = labels.get("endpointslice.kubernetes.io/managed-by");
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| is_tcp(p.protocol.as_deref()))
            .filter_map(|p| Some((p.name.clone().unwrap_or_default(), u16::try_from(p.port?).ok()?)));
        let endpoints = slice.endpoints.iter().map(|e| {
            let conditions = e.conditions.clone().unwrap_or_default();
            let target = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
            let hints = e.hints.clone().unwrap_or_default();
            let for_zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
            let for_nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name);
            // What is not said counts as ready, as the API says.
            let ready = conditions.ready.unwrap_or(true);
            EndpointRecord {
                pod: target.and_then(|t| t.name.clone()),
                addresses: e.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
                node: e.node_name.clone().unwrap_or_default(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or_default(),
                for_zones: for_zones.filter(|zone| !zone.is_empty()).collect(),
                for_nodes: for_nodes.filter(|node| !node.is_empty()).collect(),
            }
        });
        Some(Self {
            service,
            ports: ports.collect(),
            endpoints: endpoints.collect(),
            by_hand: keeper.is_none_or(|keeper| keeper != "endpointslice-controller.k8s.io"),
        })
    }
}
