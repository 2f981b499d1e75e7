//! From records to messages.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ambit_wire::agent::PodCapture;
use ambit_wire::workload::{
    Address, ExternalAddress, GatewayAddress, LoadBalancing, Locality, NetworkAddress, NetworkMode, Port,
    PortList, Service, TunnelProtocol, Workload, WorkloadStatus, address, load_balancing,
};

use super::authorization::bytes;
use super::{Config, EndpointRecord, Exclusion, Key, PodRecord, ServiceRecord, SliceRecord, endpoints};

/// What a pod's workload depends on besides the pod.
pub(super) struct Surroundings {
    /// The mesh's.
    pub(super) trust_domain: String,
    /// Where its node is.
    pub(super) locality: Option<Locality>,
    /// Addresses that are the pod's own (a newer pod may have taken one over).
    pub(super) addresses: Vec<IpAddr>,
    /// Hostname of each Service in front of it, as `namespace/hostname`, with how it takes connections for it.
    pub(super) services: BTreeMap<String, PortList>,
    /// What its own addresses are reached through.
    pub(super) waypoint: Option<GatewayAddress>,
    /// Authorizations that name it, as `namespace/name`.
    pub(super) policies: Vec<String>,
    /// Once it is captured, it refuses connections without an identity, though no authorization says so to the receiver.
    pub(super) identities_only: bool,
}

/// Whether the pod is selected for capture.
pub(super) fn wanted(enrolled: bool, pod: &PodRecord) -> bool {
    enrolled && Exclusion::of(pod).is_none()
}

/// Name of a pod's workload among the addresses.
pub(super) fn workload_uid(config: &Config, pod: &Key) -> String {
    format!("{}//Pod/{}/{}", config.cluster_id, pod.namespace, pod.name)
}

/// Fully qualified name of a Service.
pub(super) fn hostname(config: &Config, service: &Key) -> String {
    format!(
        "{}.{}.svc.{}",
        service.name, service.namespace, config.cluster_domain
    )
}

/// `namespace/hostname` of a Service: its name among the addresses.
pub(super) fn service_name(config: &Config, service: &Key) -> String {
    format!("{}/{}", service.namespace, hostname(config, service))
}

/// A pod's workload; `None` while it has no address.
pub(super) fn workload(config: &Config, key: &Key, pod: &PodRecord, around: Surroundings) -> Option<Address> {
    if around.addresses.is_empty() {
        return None;
    }
    // What the node has recorded, and nothing else: before it nothing listens for HBONE. A pod that leaves the mesh keeps the mark until
    // its redirection is away: plaintext before that would meet a ztunnel which has yet to hear that it is to take it. From then on the
    // listeners stay for as long as peers need to hear of it.
    let hbone = pod.marked && !pod.host_network && pod.has_identity();
    let (canonical_name, canonical_revision) = pod.canonical();
    let workload = Workload {
        uid: workload_uid(config, key),
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        addresses: around.addresses.into_iter().map(bytes).collect(),
        tunnel_protocol: if hbone {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        }
        .into(),
        trust_domain: around.trust_domain,
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        canonical_name: canonical_name.to_owned(),
        canonical_revision: canonical_revision.to_owned(),
        workload_type: pod.workload_type.into(),
        workload_name: pod.workload_name.clone(),
        services: around.services,
        locality: around.locality,
        waypoint: around.waypoint,
        authorization_policies: around.policies,
        identities_only: around.identities_only,
        status: if pod.ready {
            WorkloadStatus::Healthy
        } else {
            WorkloadStatus::Unhealthy
        }
        .into(),
        cluster_id: config.cluster_id.clone(),
        network_mode: if pod.host_network {
            NetworkMode::HostNetwork
        } else {
            NetworkMode::Standard
        }
        .into(),
        ..Default::default()
    };
    Some(Address {
        r#type: Some(address::Type::Workload(workload)),
    })
}

/// Workloads of a slice's endpoints that are no pods (the API server's own, for one), by name.
///
/// They count as on the host network: their address says nothing about who they are, and does not lead to them. An address of a captured
/// pod is reached as that pod, under a name that changes with the pod.
pub(super) fn bare_endpoints(
    config: &Config,
    key: &Key,
    slice: &SliceRecord,
    service: &ServiceRecord,
    trust_domain: &str,
    bare: Vec<Bare<'_>>,
) -> HashMap<String, Address> {
    let name = service_name(config, &key.sibling(&slice.service));
    let ports: Vec<Port> = endpoints::ports(service, slice).into_values().collect();
    let mut found = HashMap::new();
    for Bare {
        address,
        endpoint,
        pod,
    } in bare
    {
        let uid = format!(
            "{}/discovery.k8s.io/EndpointSlice/{}/{}/{address}",
            config.cluster_id, key.namespace, key.name
        );
        let list = endpoints::port_list(ports.clone(), endpoint, endpoints::health(endpoint));
        let services = BTreeMap::from([(name.clone(), list)]);
        if let Some((pod_key, pod, mut around)) = pod {
            let uid = format!("{uid}/{}", pod.uid);
            around.addresses = vec![address];
            let Some(Address {
                r#type: Some(address::Type::Workload(workload)),
            }) = workload(config, pod_key, pod, around)
            else {
                continue;
            };
            let workload = Workload {
                uid: uid.clone(),
                services,
                // Its own workload has the address.
                network_mode: NetworkMode::HostNetwork.into(),
                waypoint: None,
                ..workload
            };
            found.insert(
                uid,
                Address {
                    r#type: Some(address::Type::Workload(workload)),
                },
            );
            continue;
        }
        let workload = Workload {
            uid: uid.clone(),
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            addresses: vec![bytes(address)],
            trust_domain: trust_domain.to_owned(),
            canonical_name: slice.service.clone(),
            canonical_revision: "latest".to_owned(),
            workload_type: ambit_wire::workload::WorkloadType::Pod.into(),
            workload_name: slice.service.clone(),
            services,
            node: endpoint.node.clone(),
            cluster_id: config.cluster_id.clone(),
            network_mode: NetworkMode::HostNetwork.into(),
            ..Default::default()
        };
        found.insert(
            uid,
            Address {
                r#type: Some(address::Type::Workload(workload)),
            },
        );
    }
    found
}

/// A slice's endpoint that is not said to be a pod's.
pub(super) struct Bare<'a> {
    pub(super) address: IpAddr,
    pub(super) endpoint: &'a EndpointRecord,
    /// The captured pod that has the address, and what its workload depends on.
    pub(super) pod: Option<(&'a Key, &'a PodRecord, Surroundings)>,
}

/// A Service, the waypoint that it is reached through, and its addresses outside of the cluster.
pub(super) fn service(
    config: &Config,
    key: &Key,
    record: &ServiceRecord,
    waypoint: Option<GatewayAddress>,
    external_addresses: Vec<ExternalAddress>,
) -> Address {
    let ports = record.ports.values().map(|p| Port {
        service_port: p.port.into(),
        target_port: p.target.into(),
        app_protocol: p.protocol.into(),
    });
    let mut ports: Vec<Port> = ports.collect();
    ports.sort_by_key(|p| p.service_port);
    let service = Service {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        hostname: hostname(config, key),
        addresses: record
            .addresses
            .iter()
            .map(|a| NetworkAddress {
                network: String::new(),
                address: bytes(*a),
                length: None,
            })
            .collect(),
        ports,
        waypoint,
        load_balancing: balancing(record),
        session_affinity_seconds: record.affinity,
        external_addresses,
        ip_families: record.families.into(),
        ..Default::default()
    };
    Address {
        r#type: Some(address::Type::Service(service)),
    }
}

/// What Istio's API has of how endpoints are chosen. `trafficDistribution` is not in it: the hints that come of it go with each endpoint.
pub(super) fn balancing(record: &ServiceRecord) -> Option<LoadBalancing> {
    let mut balancing = LoadBalancing::default();
    if record.local {
        balancing.routing_preference = vec![load_balancing::Scope::Node.into()];
        balancing.mode = load_balancing::Mode::Strict.into();
    }
    if record.unready_too {
        balancing.health_policy = load_balancing::HealthPolicy::AllowAll.into();
    }
    (balancing != LoadBalancing::default()).then_some(balancing)
}

/// What the pod's node agent is told of it; one that leaves the mesh and is `held` stays captured.
pub(super) fn capture(key: &Key, pod: &PodRecord, enrolled: bool, held: bool) -> PodCapture {
    let reason = Exclusion::of(pod)
        .filter(|_| enrolled && !held)
        .map_or("", Exclusion::as_str);
    PodCapture {
        uid: pod.uid.clone(),
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        service_account: pod.service_account.clone(),
        capture: held || wanted(enrolled, pod),
        reason: reason.to_owned(),
        probe_ports: pod.probe_ports.iter().copied().map(u32::from).collect(),
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        marked: pod.marked,
    }
}
