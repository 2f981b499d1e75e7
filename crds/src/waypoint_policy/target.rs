//! Targets of a policy.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of routes and Gateways.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Kinds that a policy can apply to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TargetKind {
    /// A Service of the policy's namespace: requests to it, or to one of its ports.
    #[default]
    Service,
    /// The policy's own namespace: all of its Services.
    Namespace,
    /// A route of the policy's namespace: requests that it matches, at every Service that it is attached to.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// A route for gRPC, as HTTPRoute.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// A Gateway of the policy's namespace that declares a waypoint: all Services that use this waypoint.
    Gateway,
}

impl TargetKind {
    /// The kind, as objects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Namespace => "Namespace",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::Gateway => "Gateway",
        }
    }

    /// The API group of the kind.
    pub fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Namespace => "",
            Self::HttpRoute | Self::GrpcRoute | Self::Gateway => GATEWAY_GROUP,
        }
    }
}

/// What a policy applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.group) ? self.group : '') == (self.kind in ['Service', 'Namespace'] ? '' : 'gateway.networking.k8s.io')")
        .message("targetRefs.group is gateway.networking.k8s.io for kinds HTTPRoute, GRPCRoute and Gateway, and empty for Service and Namespace"),
    validation = Rule::new("!has(self.sectionName) || !(self.kind in ['Namespace', 'Gateway'])")
        .message("targetRefs.sectionName is the name of a Service's port or of a route's rule: kinds Namespace and Gateway have none"),
)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the target: gateway.networking.k8s.io for HTTPRoute, GRPCRoute and Gateway, and empty for
    /// Service and Namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Service, Namespace, HTTPRoute, GRPCRoute or Gateway.
    pub kind: TargetKind,
    /// Name of the target. A namespace must be the namespace of the policy.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Of a Service, the name of a port: the policy applies to requests to this port only. Of a route, the name of a
    /// rule (`rules[].name`): the policy applies to requests that match this rule only. If absent, the whole target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub section_name: Option<String>,
}

impl std::fmt::Display for TargetRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match (self.kind, &self.section_name) {
            (TargetKind::Namespace, _) => "namespace",
            (kind, _) => kind.as_str(),
        };
        write!(f, "{what} {}", self.name)?;
        match (&self.section_name, self.kind) {
            (None, _) => Ok(()),
            (Some(port), TargetKind::Service) => write!(f, " (port {port})"),
            (Some(rule), _) => write!(f, " (rule {rule})"),
        }
    }
}
