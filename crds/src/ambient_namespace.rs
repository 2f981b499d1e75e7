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
    /// Whether the namespace's pods are captured. Ambient: they are, whatever the namespace's label says. None: they are
    /// not, even where the label says so. Label: as the label says, which is what the operator writes in objects of its own. Defaults to Ambient.
    #[serde(default)]
    pub enrollment: Enrollment,

    /// Mutual TLS mode of the namespace's pods; the Mesh's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<NamespaceMtls>,

    /// Who may connect to the namespace's pods. A connection that any Deny rule matches is refused. Where Allow rules apply
    /// to a pod, a connection that none of them matches is refused too. No rules: everyone may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub authorization: Vec<AuthorizationRule>,

    /// How the namespace's waypoints scale; what is left out is as the Mesh has it. Waypoints themselves appear where a WaypointPolicy or the
    /// label `istio.io/use-waypoint` asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Scaling>,

    /// Settings of the pods of the namespace's waypoints, where they differ from the Mesh's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint_pods: Option<WaypointPods>,
}

/// Pods of waypoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPods {
    /// Where they go; `waypoint.placement` of the Mesh where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// CPU and memory of each; `waypoint.resources` of the Mesh where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Secrets of this namespace for pulling the image; `imagePullSecrets` of the Mesh where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Option<Vec<PullSecret>>,
}

/// Whether a namespace's pods are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enrollment {
    /// They are.
    #[default]
    Ambient,
    /// They are while the namespace has the label `istio.io/dataplane-mode: ambient`. The operator's own objects say so: whoever writes to one of
    /// them, or restores it from a backup, does not enroll the namespace by that.
    Label,
    /// They are not.
    None,
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmbientNamespaceStatus {
    /// Ready: every pod that should be captured is, and every rule is enforced. Progressing: pods are being captured or released.
    /// Degraded: something needs a person; the message says what. Each has a reason to act on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The metadata.generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The mutual TLS mode in force: the namespace's own or the Mesh's; Disabled where the namespace is not enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<String>,

    /// Counts of the namespace's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacePods>,

    /// Pods that should be captured and could not be, by name; the first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub failures: Vec<FailedPod>,

    /// How many more pods failed than are listed in failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_omitted: Option<i32>,

    /// The authorization rules in force, and by whom each is enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<EnforcedRule>,

    /// Fields of the namespace's Services that the mesh does not honour, and what happens instead; the first 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["service".into(), "field".into()]))]
    pub services: Vec<ServiceWarning>,

    /// Ready replicas of all waypoints of the namespace, of those wanted, as in `3/4`; left out where there is no waypoint.
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
    /// Live pods (finished ones do not count).
    pub total: i32,
    /// Pods whose connections the mesh carries.
    pub captured: i32,
    /// Pods that should be captured and could not be.
    pub failed: i32,
    /// Pods that are left alone: on the host's network, opted out by the label `istio.io/dataplane-mode: none`, or with a
    /// sidecar proxy.
    pub excluded: i32,
}

/// A pod that could not be captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedPod {
    /// Name of the pod.
    pub pod: String,
    /// What went wrong, in one word.
    pub reason: String,
    /// What went wrong, and what a person can do.
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
    /// What happens instead.
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
    /// What decides by it: ztunnel; or nothing, where no captured pod is selected.
    pub enforced_by: String,
    /// How many captured pods it protects.
    pub pods: i32,
    /// What of it cannot match as the cluster is: a port that is a Service's and no pod's, a principal that no service account has, a namespace
    /// that does not exist, a selector that selects nothing. The first 8; the first 32 of all rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests;
