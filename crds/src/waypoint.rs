//! Waypoints: scaling and status. Part of Mesh and AmbientNamespace.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of replicas of a waypoint. It follows the requests in flight, which the replicas report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("minReplicas must not be above maxReplicas")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Minimum of replicas, from 1 to 100. Defaults to that of the Mesh, which defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: Option<u32>,

    /// Maximum of replicas, from 1 to 100. Defaults to that of the Mesh, which defaults to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: Option<u32>,

    /// Desired number of requests in flight per replica, from 1 to 100000. Defaults to that of the Mesh, which defaults
    /// to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub target_in_flight: Option<u32>,

    /// How long more replicas must have been desired before replicas are added, from 0s to 1h. The lowest desired
    /// number within this time counts. Defaults to that of the Mesh, which defaults to 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("scaleUpWindow must be at most 1h"))]
    pub scale_up_window: Option<String>,

    /// How long fewer replicas must have been desired before replicas are removed, from 0s to 1h. The highest desired
    /// number within this time counts. Defaults to that of the Mesh, which defaults to 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("scaleDownWindow must be at most 1h"))]
    pub scale_down_window: Option<String>,
}

/// A waypoint of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointStatus {
    /// Name of the waypoint.
    pub name: String,
    /// Desired replicas.
    pub desired: i32,
    /// Ready replicas.
    pub ready: i32,
    /// Services that are reached through the waypoint.
    pub services: i32,
    /// Ready of desired replicas, as in `2/3`.
    pub replicas: String,
}

/// Configuration sent to waypoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Configurations that waypoints hold: for each replica, one for each Service that it serves.
    pub sent: i32,
}
