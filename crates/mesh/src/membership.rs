//! Workloads as endpoints of services.

use ambit_wire::workload as wire;

use crate::invalid::Invalid;

/// A port of a service, and where it leads on its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's.
    pub service_port: u16,
    /// The endpoint's. 0: each endpoint says.
    pub target_port: u16,
}

impl TryFrom<wire::Port> for ServicePort {
    type Error = Invalid;

    fn try_from(from: wire::Port) -> Result<Self, Invalid> {
        let port = |number| u16::try_from(number).map_err(|_| Invalid::Port(number));
        Ok(Self {
            service_port: port(from.service_port)?,
            target_port: port(from.target_port)?,
        })
    }
}

/// What a workload is to a service in front of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Membership {
    /// Where the service's ports lead.
    pub ports: Box<[ServicePort]>,
    /// Whether it is ready as the service's endpoint, where that does not follow from the workload.
    pub(crate) ready: Option<bool>,
    /// Zones whose clients it is for (`hints.forZones`).
    pub(crate) zones: Box<[String]>,
    /// Nodes whose clients it is for (`hints.forNodes`).
    pub(crate) nodes: Box<[String]>,
}

impl Membership {
    /// Of a workload that is ready itself, or is not.
    pub(crate) fn is_ready(&self, workload: bool) -> bool {
        self.ready.unwrap_or(workload)
    }
}

impl TryFrom<wire::PortList> for Membership {
    type Error = Invalid;

    fn try_from(from: wire::PortList) -> Result<Self, Invalid> {
        let ready = match from.health() {
            wire::EndpointHealth::AsWorkload => None,
            wire::EndpointHealth::Ready => Some(true),
            wire::EndpointHealth::NotReady => Some(false),
        };
        let ports = from.ports.into_iter().map(ServicePort::try_from);
        Ok(Self {
            ports: ports.collect::<Result<_, _>>()?,
            ready,
            zones: from.for_zones.into(),
            nodes: from.for_nodes.into(),
        })
    }
}
