//! Ambit's Kubernetes kinds, group `ambit.dev`: [`Mesh`], [`AmbientNamespace`] and [`WaypointPolicy`].
//!
//! `kubectl explain` prints the doc comments of the types. The API server refuses bad input by their CEL rules.
//! [`generate`] turns the types into CustomResourceDefinitions. [`labels`] has the labels, annotations and names that
//! the programs of Ambit share.

#![expect(
    unreachable_pub,
    reason = "the schema derive copies each public struct into a function"
)]

mod ambient_namespace;
mod generate;
pub mod labels;
mod mesh;
mod mtls;
mod pods;
mod waypoint;
mod waypoint_policy;

pub use ambient_namespace::{
    AmbientNamespace, AmbientNamespaceSpec, AmbientNamespaceStatus, EnforcedRule, Enrollment, FailedPod,
    NamespacePods, ServiceWarning, WaypointPods,
    rule::{Action, AuthorizationRule, LabelExpression, LabelOperator, Mode, PodSelector, Source},
};
pub use generate::{GenerateError, generate};
pub use mesh::{
    AccessLog, Agent, ComponentStatus, DestinationReports, Identity, Mesh, MeshPods, MeshSpec, MeshStatus,
    MeshWaypoint, MetricLabel, Metrics, Telemetry, Ztunnel, ZtunnelStatus,
};
pub use mtls::{Mtls, MtlsMode, NamespaceMtls, PortMtls};
pub use pods::{Placement, PullSecret, Resources, Rollout};
pub use waypoint::{ConfigurationStatus, Scaling, WaypointStatus};
pub use waypoint_policy::{
    PolicyAncestor, Timeouts, VersionInForce, WaypointPolicy, WaypointPolicySpec, WaypointPolicyStatus,
    retry::{Retry, RetryCondition},
    rule::{HeaderMatch, HttpRule, HttpSource, PathMatch},
    target::{GATEWAY_GROUP, TargetKind, TargetRef},
};

/// API group of Ambit's kinds.
pub const GROUP: &str = "ambit.dev";

/// Parses a duration in the form that the kinds use (`90s`, `24h`, `1h30m`).
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, DurationError> {
    let parsed: kube::core::Duration =
        text.parse()
            .map_err(|e: kube::core::duration::ParseError| DurationError {
                text: text.to_owned(),
                reason: e.to_string(),
            })?;
    if parsed.is_negative() {
        return Err(DurationError {
            text: text.to_owned(),
            reason: "it is negative".to_owned(),
        });
    }
    Ok(parsed.into())
}

/// A malformed duration.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no duration ({reason}): write it like 90s, 30m or 24h")]
pub struct DurationError {
    text: String,
    reason: String,
}

#[cfg(test)]
mod testing;
