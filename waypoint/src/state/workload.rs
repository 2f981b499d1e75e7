//! Workloads, as the data path needs them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_identity::{ParseIdentityError, SpiffeId};
use ambit_wire::authorization::address;
use ambit_wire::names::{PORT_HBONE, TRUST_DOMAIN};
use ambit_wire::workload as wire;

/// What is wrong with something that the operator sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("the resource is not named {0:?}")]
    Name(&'static str),
    #[error("{0} is empty")]
    Empty(&'static str),
    #[error("an IP address of {0} bytes")]
    Ip(usize),
    #[error("port {0} is not between 0 and 65535")]
    Port(u32),
    #[error("{0} is no span of time")]
    Duration(&'static str),
    #[error("{field} has the unknown value {value}")]
    Unknown { field: &'static str, value: i32 },
    #[error(transparent)]
    Identity(#[from] ParseIdentityError),
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) identity: SpiffeId,
    /// It is reached over HBONE; else in plaintext.
    pub(crate) hbone: bool,
    pub(crate) workload_name: String,
    pub(crate) canonical_name: String,
    pub(crate) canonical_revision: String,
    pub(crate) cluster: String,
    pub(crate) healthy: bool,
    /// What metrics tell apart: pods of one workload have the same.
    pub(crate) series: Arc<str>,
    pub(super) host_network: bool,
    /// Connections to its own address come through this waypoint. Else they are refused here: they would get past its services' rules.
    pub(super) bound: bool,
    pub(super) authorization_policies: Vec<String>,
    /// Service ports and where they lead, by `<namespace>/<hostname>`.
    pub(super) services: HashMap<Arc<str>, Arc<[PortMapping]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortMapping {
    pub(super) service: u16,
    pub(super) target: u16,
}

impl Workload {
    /// Where its proxy takes HBONE for `target`; `None` where it is reached in plaintext.
    pub(crate) fn hbone_address(&self, target: SocketAddr) -> Option<SocketAddr> {
        self.hbone.then(|| SocketAddr::new(target.ip(), PORT_HBONE))
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = Invalid;

    fn try_from(mut from: wire::Workload) -> Result<Self, Invalid> {
        if from.uid.is_empty() {
            return Err(Invalid::Empty("uid"));
        }
        let hbone = match wire::TunnelProtocol::try_from(from.tunnel_protocol) {
            Ok(wire::TunnelProtocol::Hbone) => true,
            Ok(wire::TunnelProtocol::None | wire::TunnelProtocol::LegacyIstioMtls) => false,
            Err(_) => {
                return Err(Invalid::Unknown {
                    field: "tunnel_protocol",
                    value: from.tunnel_protocol,
                });
            }
        };
        fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
            if text.is_empty() { default } else { text }
        }
        let identity = SpiffeId::new(
            or(&from.trust_domain, TRUST_DOMAIN),
            &from.namespace,
            or(&from.service_account, "default"),
        )?;
        let port = |port: wire::Port| {
            let number = |n| u16::try_from(n).map_err(|_| Invalid::Port(n));
            Ok::<_, Invalid>(PortMapping {
                service: number(port.service_port)?,
                target: number(port.target_port)?,
            })
        };
        let services = std::mem::take(&mut from.services)
            .into_iter()
            .map(|(name, ports)| {
                let ports: Result<Arc<[PortMapping]>, _> = ports.ports.into_iter().map(port).collect();
                Ok::<_, Invalid>((Arc::from(name), ports?))
            })
            .collect::<Result<_, _>>()?;
        let series = format!(
            "{identity} {} {} {} {}",
            from.workload_name, from.canonical_name, from.canonical_revision, from.cluster_id
        );
        Ok(Self {
            identity,
            series: series.into(),
            hbone,
            services,
            addresses: from
                .addresses
                .iter()
                .map(|bytes| ip(bytes))
                .collect::<Result<_, _>>()?,
            healthy: from.status() == wire::WorkloadStatus::Healthy,
            host_network: from.network_mode() == wire::NetworkMode::HostNetwork,
            bound: from.waypoint.is_some(),
            uid: from.uid.into(),
            name: from.name,
            namespace: from.namespace,
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
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    address(bytes)
        .map(|ip| ip.to_canonical())
        .ok_or(Invalid::Ip(bytes.len()))
}
