//! Cluster objects in, configuration out. No I/O: the reconcilers' watchers feed an [`Index`], and what came of it goes to the
//! data plane through the [`SharedIndex`], which is what the control plane serves from.
//!
//! An event marks what it touches; [`Index::flush`] recomputes that and nothing else.

mod applied;
mod authorization;
mod build;
mod editing;
mod endpoints;
mod enrollment;
mod external;
mod flush;
mod gateway;
mod leaving;
mod locality;
mod lookup;
mod owner;
mod placement;
mod pod;
mod policy;
mod probes;
mod register;
mod replicas;
mod route;
mod service;
mod shared;
mod state;
mod summary;
mod warnings;
mod waypoint;

pub(crate) use applied::is_ours;
pub use enrollment::{AmbientRecord, Exclusion, MeshRecord};
pub use external::ServiceFinding;
pub use gateway::GatewayRecord;
pub(crate) use pod::LONGEST_FAILURE;
pub use pod::PodRecord;
pub use policy::PolicyRecord;
pub use register::{Impostor, Registered, ReplicaSetRecord};
pub use route::{RouteCondition, RouteId, RouteParentSummary, RouteRecord, RouteSummary};
pub use service::{EndpointRecord, ServiceRecord, SliceRecord};
pub use shared::SharedIndex;
pub(crate) use state::within;
pub use state::{Config, Index, Key, Update};
pub use summary::{MeshSummary, NamespaceSummary, PodFailure, RuleSummary};
pub use waypoint::declared::{GatewaySummary, ListenerSummary};
pub use waypoint::summary::{
    Declaration, PolicyReason, PolicySummary, PolicyVerdict, ScalingSettings, TargetSummary, WaypointPod,
    WaypointSummary,
};
pub use waypoint::{Timer, WaypointResources};

#[cfg(test)]
mod tests;
