//! Services, as the control plane sends them to ztunnels.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_mesh::{
    Balancing, Frontend, Invalid, ServicePort, Waypoint, check_requires, external_addresses, ip, service_key,
};
use ambit_wire::workload as wire;
use ambit_wire::workload::load_balancing::Mode;

/// Virtual addresses of workloads.
#[derive(Debug)]
pub(crate) struct Service {
    /// `<namespace>/<hostname>`.
    pub(crate) key: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) hostname: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses outside of the cluster that lead to this service, by port.
    pub(crate) external: Vec<(IpAddr, u16)>,
    pub(crate) ports: Vec<ServicePort>,
    /// No endpoint is chosen: connections use their original destination.
    pub(crate) passthrough: bool,
    pub(crate) balancing: Balancing,
    /// Reached through this waypoint only.
    pub(crate) waypoint: Option<Waypoint>,
}

impl Service {
    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|p| p.service_port == port)
    }
}

impl Frontend for Service {
    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn external(&self) -> &[(IpAddr, u16)] {
        &self.external
    }

    fn balancing(&self) -> &Balancing {
        &self.balancing
    }

    fn target_port(&self, service_port: u16) -> Option<u16> {
        let port = self.ports.iter().find(|p| p.service_port == service_port)?;
        Some(port.target_port)
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = Invalid;

    fn try_from(from: wire::Service) -> Result<Self, Invalid> {
        check_requires(&from.requires)?;
        let balancing = from.load_balancing.as_ref();
        Ok(Self {
            key: service_key(&from.namespace, &from.hostname),
            addresses: from
                .addresses
                .iter()
                .map(|a| ip(&a.address))
                .collect::<Result<_, _>>()?,
            external: external_addresses(&from.external_addresses)?,
            ports: from
                .ports
                .into_iter()
                .map(ServicePort::try_from)
                .collect::<Result<_, _>>()?,
            passthrough: balancing.is_some_and(|b| b.mode() == Mode::Passthrough),
            balancing: Balancing::from(balancing).with_affinity(from.session_affinity_seconds),
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
