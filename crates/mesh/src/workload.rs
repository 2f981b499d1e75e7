//! Workloads, as the data path needs them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use ambit_identity::SpiffeId;
use ambit_wire::names::{PORT_HBONE, TRUST_DOMAIN};
use ambit_wire::workload as wire;

use crate::invalid::{Invalid, check_requires, ips};
use crate::membership::Membership;
use crate::waypoint::Waypoint;

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// In plaintext.
    Plaintext,
    /// Through its ztunnel, in mutual TLS.
    Hbone,
}

/// One pod, or another endpoint with addresses and an identity.
#[derive(Debug)]
pub struct Workload {
    /// Unique in the mesh.
    pub uid: Arc<str>,
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its addresses, the preferred one first.
    pub addresses: Vec<IpAddr>,
    /// Its identity.
    pub identity: SpiffeId,
    /// How it is reached.
    pub protocol: Protocol,
    /// The node it runs on.
    pub node: String,
    /// The zone of that node.
    pub zone: String,
    /// The Deployment, or other controller, that it belongs to.
    pub workload_name: String,
    /// The kind of that controller, as telemetry names it.
    pub workload_type: &'static str,
    /// `service.istio.io/canonical-name`
    pub canonical_name: String,
    /// `service.istio.io/canonical-revision`
    pub canonical_revision: String,
    /// The cluster it runs in.
    pub cluster: String,
    /// Whether it is ready.
    pub healthy: bool,
    /// It shares its address with its node, so the address does not identify it.
    pub host_network: bool,
    /// Its own addresses are reached through this waypoint only.
    pub waypoint: Option<Waypoint>,
    /// Once captured, it accepts connections with an identity only. Sent to waypoints, which do not receive the rules
    /// that close a pod.
    pub identities_only: bool,
    /// Authorizations that apply to it by name.
    pub authorization_policies: Vec<String>,
    /// Ports of the services in front of it, by `<namespace>/<hostname>`.
    pub services: HashMap<Arc<str>, Arc<Membership>>,
    series: OnceLock<Arc<str>>,
}

impl Workload {
    /// The HBONE address for `target`; `None` if it is reached in plaintext.
    pub fn hbone_address(&self, target: SocketAddr) -> Option<SocketAddr> {
        (self.protocol == Protocol::Hbone).then(|| SocketAddr::new(target.ip(), PORT_HBONE))
    }

    /// Labels that metrics distinguish: all pods of one workload have the same.
    pub fn series(&self) -> &Arc<str> {
        self.series.get_or_init(|| {
            let Self {
                identity,
                workload_name,
                canonical_name,
                canonical_revision,
                cluster,
                ..
            } = self;
            format!("{identity} {workload_name} {canonical_name} {canonical_revision} {cluster}").into()
        })
    }

    /// Whether connections to `other`, a version of the same workload, must not be used for this one.
    pub(crate) fn has_moved_from(&self, other: &Self) -> bool {
        self.addresses != other.addresses || self.identity != other.identity
    }

    /// Whether other rules apply to it than to `other`.
    pub(crate) fn is_judged_otherwise(&self, other: &Self) -> bool {
        self.authorization_policies != other.authorization_policies || self.namespace != other.namespace
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = Invalid;

    fn try_from(mut from: wire::Workload) -> Result<Self, Invalid> {
        if from.uid.is_empty() {
            return Err(Invalid::Empty("uid"));
        }
        check_requires(&from.requires)?;
        let protocol = match wire::TunnelProtocol::try_from(from.tunnel_protocol) {
            Ok(wire::TunnelProtocol::Hbone) => Protocol::Hbone,
            // Sidecars accept plaintext unless they are strict.
            Ok(wire::TunnelProtocol::None | wire::TunnelProtocol::LegacyIstioMtls) => Protocol::Plaintext,
            Err(_) => {
                return Err(Invalid::Unknown {
                    field: "tunnel_protocol",
                    value: from.tunnel_protocol,
                });
            }
        };
        let identity = SpiffeId::new(
            or(&from.trust_domain, TRUST_DOMAIN),
            &from.namespace,
            or(&from.service_account, "default"),
        )?;
        let services = std::mem::take(&mut from.services)
            .into_iter()
            .map(|(name, ports)| {
                let membership = Membership::try_from(ports)?;
                Ok::<_, Invalid>((Arc::from(name), Arc::new(membership)))
            });
        Ok(Self {
            identity,
            protocol,
            services: services.collect::<Result<_, _>>()?,
            addresses: ips(from.addresses.iter().map(Vec::as_slice))?,
            workload_type: match from.workload_type() {
                wire::WorkloadType::Deployment => "deployment",
                wire::WorkloadType::Cronjob => "cronjob",
                wire::WorkloadType::Pod => "pod",
                wire::WorkloadType::Job => "job",
            },
            healthy: from.status() == wire::WorkloadStatus::Healthy,
            host_network: from.network_mode() == wire::NetworkMode::HostNetwork,
            waypoint: from.waypoint.map(Waypoint::from),
            uid: from.uid.into(),
            name: from.name,
            namespace: from.namespace,
            node: from.node,
            zone: from.locality.map(|l| l.zone).unwrap_or_default(),
            workload_name: from.workload_name,
            canonical_name: from.canonical_name,
            canonical_revision: from.canonical_revision,
            cluster: from.cluster_id,
            identities_only: from.identities_only,
            authorization_policies: from.authorization_policies,
            series: OnceLock::new(),
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workload {}/{}", self.namespace, self.name)
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}
