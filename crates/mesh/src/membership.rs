//! Workloads as endpoints of services.

use ambit_wire::workload as wire;

use crate::invalid::Invalid;

/// A port of a service, and its target on the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// The port of the service.
    pub service_port: u16,
    /// The port of the endpoint. 0: each endpoint has its own.
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

/// A workload's membership in a service.
#[derive(Debug, PartialEq, Eq)]
pub struct Membership {
    /// Targets of the service's ports.
    pub ports: Box<[ServicePort]>,
    /// Whether it is ready as an endpoint of the service, if that differs from the workload.
    pub(crate) ready: Option<bool>,
    /// Zones of clients that it suits (`hints.forZones`).
    pub(crate) zones: Box<[String]>,
    /// Nodes of clients that it suits (`hints.forNodes`).
    pub(crate) nodes: Box<[String]>,
}

impl Membership {
    /// Whether it is ready, for a workload that is itself ready or not.
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
