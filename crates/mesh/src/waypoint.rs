//! Addresses of waypoints.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ambit_wire::names::PORT_HBONE;
use ambit_wire::workload::GatewayAddress;
use ambit_wire::workload::gateway_address::Destination;

use crate::invalid::{ip, service_key};

/// The waypoint to which a service or a workload is bound. A bound destination is never reached past it: a malformed
/// address counts as one that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waypoint {
    pub(crate) at: At,
    /// Its HBONE port.
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    /// By `<namespace>/<hostname>`.
    Service(Arc<str>),
    /// A service's virtual address, or a pod's own.
    Address(IpAddr),
    Nowhere,
}

impl From<GatewayAddress> for Waypoint {
    fn from(from: GatewayAddress) -> Self {
        let at = match from.destination {
            Some(Destination::Hostname(name)) => At::Service(service_key(&name.namespace, &name.hostname)),
            Some(Destination::Address(address)) => ip(&address.address).map_or(At::Nowhere, At::Address),
            None => At::Nowhere,
        };
        match (u16::try_from(from.hbone_mtls_port), at) {
            (Ok(0), at) => Self { at, port: PORT_HBONE },
            (Ok(port), at) => Self { at, port },
            (Err(_), _) => Self {
                at: At::Nowhere,
                port: PORT_HBONE,
            },
        }
    }
}

impl fmt::Display for Waypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Nowhere => f.write_str("a waypoint without an address"),
            at => write!(f, "waypoint {at}"),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => f.write_str(key),
            Self::Address(address) => address.fmt(f),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

impl Waypoint {
    /// Its address, for messages.
    pub fn destination(&self) -> String {
        self.at.to_string()
    }

    /// Its HBONE port.
    pub fn port(&self) -> u16 {
        self.port
    }
}
