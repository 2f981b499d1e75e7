//! Waypoints: how they scale, and what the status says of them. Part of Mesh and AmbientNamespace.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many replicas a waypoint has. They follow the requests that are in flight, which the waypoints report to the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("minReplicas must not be above maxReplicas")
)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Replicas at least, from 1 to 100. Defaults to the Mesh's, and that to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: Option<u32>,

    /// Replicas at most, from 1 to 100. Defaults to the Mesh's, and that to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: Option<u32>,

    /// Requests in flight that one replica is to have, from 1 to 100000. Defaults to the Mesh's, and that to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub target_in_flight: Option<u32>,

    /// How long more replicas must have been called for before they are added, from 0s to 1h: the least that was called for within it
    /// counts. Defaults to the Mesh's, and that to 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("scaleUpWindow must be at most 1h"))]
    pub scale_up_window: Option<String>,

    /// How long fewer replicas must have done before some are removed, from 0s to 1h: the most that was called for within it counts.
    /// Defaults to the Mesh's, and that to 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("scaleDownWindow must be at most 1h"))]
    pub scale_down_window: Option<String>,
}

/// A waypoint of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointStatus {
    /// Its name.
    pub name: String,
    /// Replicas wanted now.
    pub desired: i32,
    /// Replicas that are ready.
    pub ready: i32,
    /// Services that are reached through it.
    pub services: i32,
    /// Ready of wanted replicas, as in `2/3`.
    pub replicas: String,
}

/// What waypoints were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Configurations that waypoints hold: for each of their replicas, one for each Service that it serves.
    pub sent: i32,
}
