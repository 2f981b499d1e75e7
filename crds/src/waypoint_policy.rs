//! The WaypointPolicy: L7 rules for Services.

pub(crate) mod retry;
pub(crate) mod rule;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use retry::Retry;
use rule::HttpRule;

/// L7 rules.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ambit.dev",
    version = "v1alpha1",
    kind = "WaypointPolicy",
    plural = "waypointpolicies",
    shortname = "wpp",
    category = "ambit",
    namespaced,
    status = "WaypointPolicyStatus",
    derive = "PartialEq",
    doc = "WaypointPolicy asks for HTTP rules in front of Services: who may call what, how long a request may take, what is tried again. \
           A waypoint, an HTTP proxy that Ambit runs and scales in the namespace, appears where a policy needs one, and goes with the last \
           of them. The namespace must be in the mesh.",
    validation = Rule::new("has(self.spec.authorization) && size(self.spec.authorization) > 0 || has(self.spec.timeouts) || has(self.spec.retry)")
        .message("spec needs one of authorization, timeouts, retry"),
    validation = Rule::new("!has(self.spec.timeouts) || !has(self.spec.timeouts.backendRequest) || !has(self.spec.retry) || (has(self.spec.retry.conditions) && self.spec.retry.conditions.exists(c, c == 'Reset'))")
        .message("timeouts.backendRequest with retry needs Reset among retry.conditions: a try that is over counts as reset"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].reason"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".status.targets", description = "Targets at which a waypoint enforces it, of all"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPolicySpec {
    /// What the policy applies to: Services of the policy's namespace by name, or the namespace itself, which is all of its Services.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name))")
        .message("targetRefs names the same target twice"))]
    pub target_refs: Vec<TargetRef>,

    /// Who may do what. A request that any Deny rule matches is refused with 403. Where Allow rules apply to a Service, of this policy or
    /// another, a request that none of them matches is refused too. A policy with authorization also closes the ways around the
    /// waypoint: connections to the pods behind the Service are taken from the waypoint and the kubelet's probes alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub authorization: Vec<HttpRule>,

    /// How long requests may take. Of several policies for one Service one that names it goes before one for the namespace, and the oldest goes
    /// before the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// What is tried again. Left out: nothing but requests that their endpoint has certainly not looked at. Of several policies for one
    /// Service the same one goes first as with timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,

    /// Refused: it is now timeouts.request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("timeout is now timeouts.request"))]
    pub timeout: Option<String>,
}

/// How long requests may take: the names and meanings are those of the Gateway API's HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.request) || has(self.backendRequest)").message("timeouts needs request or backendRequest"),
    validation = Rule::new("!has(self.request) || !has(self.backendRequest) || duration(self.backendRequest) <= duration(self.request)")
        .message("timeouts.backendRequest must not be longer than timeouts.request"),
)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// How long a request may take, all tries together, until the head of the answer has come; then the caller gets 504. From 1ms to 1h.
    /// Left out: as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("timeouts.request must be between 1ms and 1h"))]
    pub request: Option<String>,

    /// How long one try may take until the head of the answer has come, from 1ms to 1h. It is for the tries of this policy's retry; a policy
    /// without retry makes it the limit of the request. Left out: as long as the request may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("timeouts.backendRequest must be between 1ms and 1h"))]
    pub backend_request: Option<String>,
}

/// Kinds that a policy can apply to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TargetKind {
    /// A Service of the policy's namespace.
    #[default]
    Service,
    /// The policy's own namespace: all of its Services.
    Namespace,
}

/// What a policy applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the target; empty, as Service and Namespace have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 0))]
    pub group: String,
    /// Service or Namespace.
    pub kind: TargetKind,
    /// Name of the Service; or of the namespace, which must be the policy's own.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// What was found and done, by target (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPolicyStatus {
    /// Accepted and Programmed of the policy as a whole: True where they are at every target; else those of the first target where they are
    /// not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Targets at which a waypoint enforces the policy, of all, as in `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// One entry for each of targetRefs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestor>,
    /// What holds where that is not simply the spec: because the spec is not accepted, or one of its targets is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<VersionInForce>,
}

/// A version of the policy that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionInForce {
    /// Its metadata.generation.
    pub generation: i64,
    /// The version of the API that its spec is of: an operator of a later one converts it, or closes what it cannot read.
    #[serde(default = "current_version")]
    pub api_version: String,
    /// Its spec; targetRefs are those that it holds for now. Operators that begin anew read it from here.
    #[schemars(schema_with = "any_object")]
    pub spec: serde_json::Value,
}

fn current_version() -> String {
    WaypointPolicy::api_version(&()).into_owned()
}

/// The schema of an object that is not looked into: what it holds was validated when it was a spec.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// What became of the policy at one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestor {
    /// The target.
    pub ancestor_ref: TargetRef,
    /// Who says so: ambit.dev/operator.
    pub controller_name: String,
    /// Accepted: the policy is understood and its target is there. Programmed: a waypoint enforces it. Each has a reason and a message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The waypoint that enforces it, as `namespace/name`; left out while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_by: Option<String>,
    /// Ready replicas of that waypoint, of those wanted, as in `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
    /// Pods behind the target that take connections from the waypoint and from probes alone, because the policy has authorization; left out
    /// where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded_pods: Option<i32>,
}

#[cfg(test)]
mod tests;
