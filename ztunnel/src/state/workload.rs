//! Workloads, as the data path needs them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_identity::{ParseIdentityError, SpiffeId};
use ambit_wire::authorization::address;
use ambit_wire::names::TRUST_DOMAIN;
use ambit_wire::workload as wire;

use super::service::ServicePort;
use super::waypoint::Waypoint;

/// What is wrong with an address that the control plane sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAddress {
    #[error("neither a workload nor a service")]
    Empty,
    #[error("the workload has no UID")]
    NoUid,
    #[error("an IP address of {0} bytes")]
    Ip(usize),
    #[error("port {0} is not between 1 and 65535")]
    Port(u32),
    #[error("{field} has the unknown value {value}")]
    Unknown { field: &'static str, value: i32 },
    #[error(transparent)]
    Identity(#[from] ParseIdentityError),
}

/// How a workload is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Plaintext,
    Hbone,
}

/// One pod, or another thing with addresses and an identity.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) identity: SpiffeId,
    pub(crate) protocol: Protocol,
    pub(crate) node: String,
    pub(crate) workload_name: String,
    pub(crate) workload_type: &'static str,
    pub(crate) canonical_name: String,
    pub(crate) canonical_revision: String,
    pub(crate) cluster: String,
    pub(crate) healthy: bool,
    pub(crate) host_network: bool,
    /// Its own addresses are reached through it only.
    pub(crate) waypoint: Option<Waypoint>,
    pub(crate) authorization_policies: Vec<String>,
    /// By `<namespace>/<hostname>`.
    pub(crate) services: HashMap<Arc<str>, Arc<[ServicePort]>>,
}

impl TryFrom<wire::Workload> for Workload {
    type Error = InvalidAddress;

    fn try_from(mut from: wire::Workload) -> Result<Self, InvalidAddress> {
        if from.uid.is_empty() {
            return Err(InvalidAddress::NoUid);
        }
        let protocol = match wire::TunnelProtocol::try_from(from.tunnel_protocol) {
            Ok(wire::TunnelProtocol::Hbone) => Protocol::Hbone,
            // Sidecars accept plaintext unless they are strict.
            Ok(wire::TunnelProtocol::None | wire::TunnelProtocol::LegacyIstioMtls) => Protocol::Plaintext,
            Err(_) => {
                return Err(InvalidAddress::Unknown {
                    field: "tunnel_protocol",
                    value: from.tunnel_protocol,
                });
            }
        };
        let or = |text: &str, default: &str| {
            if text.is_empty() {
                default.to_owned()
            } else {
                text.to_owned()
            }
        };
        let identity = SpiffeId::new(
            &or(&from.trust_domain, TRUST_DOMAIN),
            &from.namespace,
            &or(&from.service_account, "default"),
        )?;
        let services = std::mem::take(&mut from.services)
            .into_iter()
            .map(|(name, ports)| {
                let ports: Result<Arc<[ServicePort]>, _> =
                    ports.ports.into_iter().map(ServicePort::try_from).collect();
                ports.map(|ports| (Arc::from(name), ports))
            });
        Ok(Self {
            identity,
            protocol,
            services: services.collect::<Result<_, _>>()?,
            addresses: from
                .addresses
                .iter()
                .map(|bytes| ip(bytes))
                .collect::<Result<_, _>>()?,
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
            workload_name: from.workload_name,
            canonical_name: from.canonical_name,
            canonical_revision: from.canonical_revision,
            cluster: from.cluster_id,
            authorization_policies: from.authorization_policies,
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workload {}/{}", self.namespace, self.name)
    }
}

pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, InvalidAddress> {
    address(bytes)
        .map(|ip| ip.to_canonical())
        .ok_or(InvalidAddress::Ip(bytes.len()))
}
