//! The AmbientNamespace: one per namespace.

pub(crate) mod rule;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AuthorizationRule, Mode, NamespaceMtls, Placement, PullSecret, Resources, Scaling, WaypointStatus,
};

/// Settings of a namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ambit.dev",
    version = "v1alpha1",
    kind = "AmbientNamespace",
    plural = "ambientnamespaces",
    shortname = "ambns",
    category = "ambit",
    namespaced,
    status = "AmbientNamespaceStatus",
    derive = "PartialEq",
    doc = "AmbientNamespace is a namespace's part in the mesh: whether its pods are captured, what they accept, who may connect to \
           them, and, in its status, what became of it. The one of a namespace is named `ambient`. It enrolls the namespace by \
           itself; where only the label `istio.io/dataplane-mode: ambient` enrolls it, the operator creates this object to \
           carry the status.",
    validation = Rule::new("self.metadata.name == 'ambient'")
        .message("metadata.name must be 'ambient': a namespace has one AmbientNamespace"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "mTLS", type_ = "string", json_path = ".status.mtlsMode"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods.total"),
    printcolumn(name = "Captured", type_ = "integer", json_path = ".status.pods.captured"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.pods.failed"),
    printcolumn(name = "Waypoint", type_ = "string", json_path = ".status.waypointReplicas", description = "Ready replicas of all waypoints, of those wanted"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AmbientNamespaceSpec {
    /// Whether the namespace's pods are captured. Ambient: yes, whatever the namespace's label. None: no, whatever the
    /// namespace's label. Label: as the label says; the operator writes this value in the objects that it creates.
    /// Defaults to Ambient.
    #[serde(default)]
    pub enrollment: Enrollment,

    /// Mutual TLS mode of the namespace's pods. Defaults to that of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<NamespaceMtls>,

    /// Which callers may connect to the namespace's pods. A connection that matches any Deny rule is denied. If Allow
    /// rules apply to a pod, a connection that matches none of them is denied, too. Without rules every caller may
    /// connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub authorization: Vec<AuthorizationRule>,

    /// How the namespace's waypoints scale. Fields that are left out are those of the Mesh. This setting creates no
    /// waypoint: a WaypointPolicy or the label `istio.io/use-waypoint` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Scaling>,

    /// Settings of the pods of the namespace's waypoints, if they differ from those of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint_pods: Option<WaypointPods>,
}

/// Pods of waypoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPods {
    /// Where the pods run. Defaults to `waypoint.placement` of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// CPU and memory of each pod. Defaults to `waypoint.resources` of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Secrets of this namespace for pulling the image. Defaults to `imagePullSecrets` of the Mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Option<Vec<PullSecret>>,
}

/// Whether a namespace's pods are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enrollment {
    /// The pods are captured.
    #[default]
    Ambient,
    /// The pods are captured while the namespace has the label `istio.io/dataplane-mode: ambient`. Objects that the
    /// operator creates have this value: a user who edits one of them, or restores it from a backup, does not enrol the
    /// namespace by that.
    Label,
    /// The pods are not captured.
    None,
}

/// Status of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmbientNamespaceStatus {
    /// Ready: every pod that should be captured is captured, and every rule is enforced. Progressing: pods are being
    /// captured or released. Degraded: a person should look; the message has the remedy. Each condition has a reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The metadata.generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The mutual TLS mode in force: the namespace's own or that of the Mesh. Disabled if the namespace is not
    /// enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<String>,

    /// Counts of the namespace's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacePods>,

    /// Pods that should be captured and are not, by name; the first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub failures: Vec<FailedPod>,

    /// Number of failed pods that are not listed in failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_omitted: Option<i32>,

    /// The authorization rules in force, and which proxy enforces each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<EnforcedRule>,

    /// Fields of the namespace's Services that the mesh does not honour, and the effect; the first 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["service".into(), "field".into()]))]
    pub services: Vec<ServiceWarning>,

    /// Ready replicas of all waypoints of the namespace, of the desired ones, as in `3/4`. Absent without a waypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint_replicas: Option<String>,

    /// The namespace's waypoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub waypoints: Vec<WaypointStatus>,
}

/// Counts of a namespace's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacePods {
    /// Live pods (finished pods do not count).
    pub total: i32,
    /// Captured pods: the mesh carries their connections.
    pub captured: i32,
    /// Pods that should be captured and are not.
    pub failed: i32,
    /// Pods that the mesh leaves alone: on the host's network, opted out by the label `istio.io/dataplane-mode: none`,
    /// or with a sidecar proxy.
    pub excluded: i32,
}

/// A pod that could not be captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedPod {
    /// Name of the pod.
    pub pod: String,
    /// The reason, in one word.
    pub reason: String,
    /// The cause and the remedy.
    pub message: String,
}

/// A field of a Service that the mesh does not honour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceWarning {
    /// Name of the Service.
    pub service: String,
    /// The field.
    pub field: String,
    /// The effect.
    pub message: String,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnforcedRule {
    /// Name of the rule.
    pub name: String,
    /// Enforce or Audit.
    pub mode: Mode,
    /// The proxy that enforces the rule: ztunnel; or none, if the rule selects no captured pod.
    pub enforced_by: String,
    /// Number of captured pods that the rule protects.
    pub pods: i32,
    /// Parts of the rule that cannot match in this cluster: a port of a Service that no pod listens on, a principal
    /// without a service account, a namespace that does not exist, a selector that selects no pod. The first 8 of the
    /// rule; the first 32 of all rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests;
