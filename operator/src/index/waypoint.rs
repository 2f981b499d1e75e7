//! Waypoints: which ones a namespace needs, what is reached through them, and what each of them is sent.
//!
//! All of it depends on the records of one namespace and on the Mesh. When one of them changes, the namespace's [`plan`] is made anew
//! and what differs from the one before is given out; a change in another namespace touches nothing of it.

pub(super) mod summary;

use std::collections::BTreeMap;

/// All that one waypoint is sent: encoded messages by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaypointResources {
    /// `ambit.waypoint.v1.Settings`.
    pub settings: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Service`.
    pub services: BTreeMap<String, Vec<u8>>,
    /// `ambit.waypoint.v1.Policy`.
    pub policies: BTreeMap<String, Vec<u8>>,
    /// `istio.workload.Workload`.
    pub workloads: BTreeMap<String, Vec<u8>>,
    /// `istio.security.Authorization`.
    pub authorizations: BTreeMap<String, Vec<u8>>,
}
