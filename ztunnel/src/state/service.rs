//! Services, as the data path needs them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_wire::workload as wire;
use ambit_wire::workload::load_balancing::{HealthPolicy, Mode};

use super::waypoint::Waypoint;
use super::workload::{InvalidAddress, ip};

/// A port of a service, and where it leads on its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) service_port: u16,
    /// 0: each endpoint says.
    pub(crate) target_port: u16,
}

impl TryFrom<wire::Port> for ServicePort {
    type Error = InvalidAddress;

    fn try_from(from: wire::Port) -> Result<Self, InvalidAddress> {
        let port = |number| u16::try_from(number).map_err(|_| InvalidAddress::Port(number));
        Ok(Self {
            service_port: port(from.service_port)?,
            target_port: port(from.target_port)?,
        })
    }
}

/// Virtual addresses in front of workloads.
#[derive(Debug)]
pub(crate) struct Service {
    /// `<namespace>/<hostname>`.
    pub(crate) key: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) hostname: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<ServicePort>,
    /// No endpoint is chosen: connections go on to where they were going.
    pub(crate) passthrough: bool,
    /// Unhealthy endpoints are used like healthy ones.
    pub(crate) ignore_health: bool,
    /// Reached through it only.
    pub(crate) waypoint: Option<Waypoint>,
}

impl TryFrom<wire::Service> for Service {
    type Error = InvalidAddress;

    fn try_from(from: wire::Service) -> Result<Self, InvalidAddress> {
        let balancing = from.load_balancing.unwrap_or_default();
        Ok(Self {
            key: key(&from.namespace, &from.hostname),
            addresses: from
                .addresses
                .iter()
                .map(|a| ip(&a.address))
                .collect::<Result<_, _>>()?,
            ports: from
                .ports
                .into_iter()
                .map(ServicePort::try_from)
                .collect::<Result<_, _>>()?,
            passthrough: balancing.mode() == Mode::Passthrough,
            ignore_health: balancing.health_policy() == HealthPolicy::AllowAll,
            waypoint: from.waypoint.map(Waypoint::from),
            name: from.name,
            namespace: from.namespace,
            hostname: from.hostname,
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}/{}", self.namespace, self.hostname)
    }
}

pub(super) fn key(namespace: &str, hostname: &str) -> Arc<str> {
    format!("{namespace}/{hostname}").into()
}
