//! The WaypointPolicy: L7 rules for Services and routes.

pub(crate) mod retry;
pub(crate) mod rule;
pub(crate) mod target;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, Resource};
use serde::{Deserialize, Serialize};

use retry::Retry;
use rule::HttpRule;
use target::TargetRef;

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
    doc = "WaypointPolicy asks for HTTP rules in front of Services and for routes: who may call what, how long a request may take, what is tried again. \
           A waypoint, an HTTP proxy that Ambit runs and scales in the namespace, appears where a policy needs one, and goes with the last \
           of them. The namespace must be in the mesh.",
    validation = Rule::new("has(self.spec.authorization) && size(self.spec.authorization) > 0 || has(self.spec.timeouts) || has(self.spec.retry)")
        .message("spec needs one of authorization, timeouts, retry"),
    validation = Rule::new("!has(self.spec.timeouts) || !has(self.spec.timeouts.backendRequest) || !has(self.spec.retry) || (has(self.spec.retry.conditions) && self.spec.retry.conditions.exists(c, c == 'Reset'))")
        .message("timeouts.backendRequest with retry needs Reset among retry.conditions: an attempt that \
             times out counts as a reset"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Programmed\")].reason"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".status.targets", description = "Targets at which a waypoint enforces it, of all"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPolicySpec {
    /// Targets of the policy, all in its namespace: Services; routes of the Gateway API; Gateways, which means all Services
    /// that use the waypoint of the Gateway; or the namespace itself, which means all of its Services. With sectionName,
    /// one port of a Service or one rule of a route.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))")
            .message("targetRefs names the same target twice"),
        validation = Rule::new("self.all(a, has(a.sectionName) || !self.exists(b, a.kind == b.kind && a.name == b.name && has(b.sectionName)))")
            .message("targetRefs names a target and a section of it: the target includes its sections"),
    )]
    pub target_refs: Vec<TargetRef>,

    /// Which requests pass. A request that matches any Deny rule of any policy is denied with 403. Allow rules of
    /// policies for a Service, for the Gateway of its waypoint and for its namespace are one set: a request has to match
    /// one of them. Allow rules for a port, for a route and for a rule of a route are sets of their own, and a request has to match one rule of each
    /// set that applies to it: they never allow what the Service's rules do not. A policy with authorization also
    /// closes the pods behind the Service, or behind the Services to which the route is attached: they accept
    /// connections of the waypoint and of the kubelet's probes only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub authorization: Vec<HttpRule>,

    /// How long requests may take. If several policies with timeouts apply to a request, one of them counts, as a whole:
    /// that of the rule of the route, then of the route, the port, the Service, the namespace; among equals the oldest,
    /// then the first by name. The timeouts of the route itself precede all policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// Which requests are retried. If absent, only requests that their endpoint has certainly not processed. If several
    /// policies with retry apply to a request, the order is that of timeouts. The retry of the route itself precedes all
    /// policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,

    /// Not accepted: use timeouts.request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("timeout is now timeouts.request"))]
    pub timeout: Option<String>,
}

/// How long requests may take. Names and meanings are those of the Gateway API's HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.request) || has(self.backendRequest)").message("timeouts needs request or backendRequest"),
    validation = Rule::new("!has(self.request) || !has(self.backendRequest) || duration(self.backendRequest) <= duration(self.request)")
        .message("timeouts.backendRequest must not be longer than timeouts.request"),
)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// How long a request may take, all attempts together, until the whole response has arrived. If no response has
    /// begun by then, the caller gets 504; one that has begun is cut: it does not end as a whole response does. From
    /// 1ms to 1h. If absent, there is no limit. Connections that have become WebSocket have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("timeouts.request must be between 1ms and 1h"))]
    pub request: Option<String>,

    /// How long one attempt may take until the whole response has arrived, from 1ms to 1h. It limits the attempts of
    /// this policy's retry; without retry it limits the request. An attempt whose response has begun is not repeated:
    /// the response is cut. If absent, the limit of the request applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("timeouts.backendRequest must be between 1ms and 1h"))]
    pub backend_request: Option<String>,
}

/// Status of the policy, by target (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaypointPolicyStatus {
    /// Accepted and Programmed of the policy as a whole: True if they are True at every target; otherwise the
    /// conditions of the first target where they are not. Ready: both are True. Reconciling, present only while it is
    /// True: a waypoint is starting. Stalled, present only while it is True: a person should look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The metadata.generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Targets at which a waypoint enforces the policy, of all targets, as in `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// One entry for each of targetRefs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestor>,
    /// The version in force, if it is not the current spec: the spec is not accepted, or one of its targets does not
    /// exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<VersionInForce>,
}

/// A version of the policy that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionInForce {
    /// The metadata.generation of that version.
    pub generation: i64,
    /// API version of its spec. A later operator converts it, or closes the parts that it cannot read.
    #[serde(default = "current_version")]
    pub api_version: String,
    /// Its spec; targetRefs are those for which it is in force now. Operators that restart read it from here.
    #[schemars(schema_with = "any_object")]
    pub spec: serde_json::Value,
}

fn current_version() -> String {
    WaypointPolicy::api_version(&()).into_owned()
}

/// The schema of an object that is not validated: its content was validated as a spec.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// State of the policy at one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestor {
    /// The target.
    pub ancestor_ref: TargetRef,
    /// The controller that reports: ambit.dev/operator.
    pub controller_name: String,
    /// Accepted: the policy is valid and its target exists. Programmed: a waypoint enforces it. Each has a reason and a
    /// message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The waypoint that enforces the policy, as `namespace/name`. Absent while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_by: Option<String>,
    /// Ready replicas of that waypoint, of the desired ones, as in `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
    /// Pods behind the target (of a route: behind the Services of its namespace that are its parents) that accept
    /// connections of the waypoint and of probes only, because the policy has authorization. Absent without
    /// authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded_pods: Option<i32>,
}

#[cfg(test)]
mod tests;
