//! Waypoints: which ones a namespace needs, what is reached through them, and what each of them is sent.
//!
//! All of it depends on the records of one namespace and on the Mesh; where its Services use a waypoint of another namespace, on that waypoint
//! and its Gateway, too. When one of them changes, the namespace's [`Plan`] is made anew and what differs from the one before is given out.

mod binding;
mod consent;
pub(super) mod declared;
mod guard;
mod judge;
mod labels;
mod plan;
mod replan;
mod resources;
mod sharing;
pub(super) mod summary;
mod timer;
mod wanted;

use std::collections::BTreeMap;

pub(super) use guard::exempt;
pub(super) use labels::{UseWaypoint, WaypointFor, WaypointLabels};
pub(super) use plan::Plan;
pub use timer::Timer;

use super::{Config, Index, Key};

/// All that one waypoint is sent: encoded messages by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaypointResources {
    /// `ambit.waypoint.v1.Settings`.
    pub settings: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Service`.
    pub services: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Route`.
    pub routes: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Backend`.
    pub backends: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Policy`.
    pub policies: BTreeMap<String, Vec<u8>>,
    /// `istio.workload.Workload`.
    pub workloads: BTreeMap<String, Vec<u8>>,
    /// `istio.security.Authorization`.
    pub authorizations: BTreeMap<String, Vec<u8>>,
}

/// The identity of a waypoint, as rules have it.
fn principal(trust_domain: &str, waypoint: &Key) -> String {
    format!("{trust_domain}/ns/{}/sa/{}", waypoint.namespace, waypoint.name)
}

impl Index {
    /// The identities of the waypoints that serve a namespace.
    pub(super) fn waypoint_principals(&self, namespace: &str) -> Vec<String> {
        let Some(plan) = self.plans.get(namespace) else {
            return Vec::new();
        };
        let trust_domain = self.trust_domain();
        plan.made().map(|key| principal(&trust_domain, key)).collect()
    }
}

/// Where a waypoint is reached.
pub(super) fn gateway(config: &Config, waypoint: &Key) -> ambit_wire::workload::GatewayAddress {
    use ambit_wire::workload::{GatewayAddress, NamespacedHostname, gateway_address::Destination};
    GatewayAddress {
        destination: Some(Destination::Hostname(NamespacedHostname {
            namespace: waypoint.namespace.clone(),
            hostname: super::build::hostname(config, waypoint),
        })),
        hbone_mtls_port: ambit_wire::names::PORT_HBONE.into(),
    }
}
