//! How the endpoints of a service are chosen.

use std::time::Duration;

use ambit_wire::workload as wire;
use ambit_wire::workload::load_balancing::{HealthPolicy, Mode, Scope};

/// By which of its addresses a client reaches a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// Its cluster IP.
    #[default]
    ClusterIp,
    /// One of `externalIPs`, or a load balancer's: `internalTrafficPolicy` does not apply.
    External,
}

/// How the endpoints of a service are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Endpoints that are not ready are used like ready ones (`publishNotReadyAddresses`).
    pub unready_too: bool,
    /// Endpoints on other nodes than the client's are never chosen (`internalTrafficPolicy: Local`).
    pub local: bool,
    /// A client keeps its endpoint until it has been idle for this long (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
}

impl Balancing {
    /// With session affinity for this number of seconds, if any.
    pub fn with_affinity(self, seconds: u32) -> Self {
        let affinity = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { affinity, ..self }
    }
}

impl From<Option<&wire::LoadBalancing>> for Balancing {
    fn from(from: Option<&wire::LoadBalancing>) -> Self {
        Self {
            unready_too: from.is_some_and(|b| b.health_policy() == HealthPolicy::AllowAll),
            local: from.is_some_and(|b| {
                b.mode() == Mode::Strict && b.routing_preference().next() == Some(Scope::Node)
            }),
            affinity: None,
        }
    }
}
