//! The Mesh: one per cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigurationStatus, Mtls, Placement, PullSecret, Resources, Rollout, Scaling};

/// Settings of the mesh.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ambit.dev",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    shortname = "amesh",
    category = "ambit",
    status = "MeshStatus",
    derive = "PartialEq",
    doc = "Mesh is the service mesh of this cluster. Creating the one named `default` rolls Ambit's data plane out to every node: \
           an agent, which captures pods, and a ztunnel, which carries their connections in mutual TLS. Which pods are captured \
           is said per namespace: by the label `istio.io/dataplane-mode: ambient` or by an AmbientNamespace. Deleting the Mesh \
           releases every pod and restores the nodes first.",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be 'default': a cluster has one Mesh"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes", description = "Nodes with a ready ztunnel, of all"),
    printcolumn(name = "Captured", type_ = "integer", json_path = ".status.pods.captured"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSpec {
    /// SPIFFE trust domain: the first part of every identity, as in `spiffe://cluster.local/ns/shop/sa/cart`. It cannot
    /// be changed, since every certificate and every authorization rule would have to change with it. To change it,
    /// delete the Mesh and create it anew. Defaults to cluster.local.
    #[serde(default = "default_trust_domain")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("trustDomain cannot be changed: delete the Mesh and create it anew"))]
    pub trust_domain: String,

    /// Certificates of workloads.
    #[serde(default)]
    pub identity: Identity,

    /// Mutual TLS mode of the whole mesh; an AmbientNamespace can override it.
    #[serde(default)]
    pub mtls: Mtls,

    /// The ztunnels, one on each node.
    #[serde(default)]
    pub ztunnel: Ztunnel,

    /// How long open connections may continue when a ztunnel or a waypoint is replaced, a pod leaves the mesh, or a
    /// waypoint no longer serves their Service, from 0s to 24h. New connections are not affected. Defaults to 1m.
    #[serde(default = "default_drain_deadline")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("drainDeadline must be at most 24h"))]
    pub drain_deadline: String,

    /// The agents, one on each node.
    #[serde(default)]
    pub agent: Agent,

    /// Where agents and ztunnels run. By default on every Linux node, whatever its taints, with the priority class
    /// `system-node-critical`. A node that is excluded has no ztunnel, so captured pods on it have no network: drain
    /// the node first. `status.warnings` names such nodes.
    #[serde(default)]
    pub placement: Placement,

    /// Secrets for pulling the images of agents, ztunnels and waypoints. Defaults to those of the chart
    /// (`image.pullSecrets`). The kubelet reads them in the pod's own namespace: for a waypoint they must be in the
    /// waypoint's namespace, since the operator copies no Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<PullSecret>,

    /// The waypoints. The operator creates them in the namespaces that need one.
    #[serde(default)]
    pub waypoint: MeshWaypoint,

    /// Logs and metrics of the programs.
    #[serde(default)]
    pub telemetry: Telemetry,
}

impl Default for MeshSpec {
    fn default() -> Self {
        Self {
            trust_domain: default_trust_domain(),
            identity: Identity::default(),
            mtls: Mtls::default(),
            ztunnel: Ztunnel::default(),
            drain_deadline: default_drain_deadline(),
            agent: Agent::default(),
            placement: Placement::default(),
            image_pull_secrets: Vec::new(),
            waypoint: MeshWaypoint::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// Certificates of workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// How long a workload's certificate is valid, from 1m to 720h. Proxies renew it at half of that. A change applies
    /// to certificates issued from then on. Defaults to 24h.
    #[serde(rename = "leafTTL", default = "default_leaf_ttl")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s)){1,3}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('720h')")
        .message("leafTTL must be between 1m and 720h"))]
    pub leaf_ttl: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            leaf_ttl: default_leaf_ttl(),
        }
    }
}

/// The ztunnels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ztunnel {
    /// CPU and memory of each ztunnel. Defaults to requests of 100m and 64Mi, and no limits.
    #[serde(default)]
    pub resources: Resources,

    /// Not accepted: use spec.telemetry.logLevel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("logLevel is now spec.telemetry.logLevel"))]
    pub log_level: Option<String>,

    /// Not accepted: use spec.drainDeadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("drainDeadline is now spec.drainDeadline"))]
    pub drain_deadline: Option<String>,

    /// How many ztunnels are replaced at once.
    #[serde(default)]
    pub rollout: Rollout,
}

/// The agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// CPU and memory of each agent. Defaults to requests of cpu 20m and memory 32Mi, and no limits.
    #[serde(default = "agent_resources")]
    pub resources: Resources,

    /// How many agents are replaced at once. Connections do not need an agent. Pods that start on its node, and
    /// captures, wait for it.
    #[serde(default)]
    pub rollout: Rollout,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            resources: agent_resources(),
            rollout: Rollout::default(),
        }
    }
}

fn agent_resources() -> Resources {
    Resources {
        requests: BTreeMap::from([
            ("cpu".to_owned(), Quantity("20m".to_owned())),
            ("memory".to_owned(), Quantity("32Mi".to_owned())),
        ]),
        limits: BTreeMap::new(),
    }
}

/// The waypoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshWaypoint {
    /// How waypoints scale. An AmbientNamespace can override it.
    #[serde(default)]
    pub scaling: Scaling,

    /// CPU and memory of each waypoint. Defaults to requests of 100m and 64Mi, and a limit of 512Mi of memory. A
    /// waypoint holds bytes for its callers (bodies, heads, connections) up to half of its memory limit, or up to 1 GiB
    /// without a limit; past that it refuses requests. It needs more memory with thousands of open connections or slow
    /// readers on each replica.
    #[serde(default = "waypoint_resources")]
    pub resources: Resources,

    /// Where waypoints run. An AmbientNamespace can override it.
    #[serde(default)]
    pub placement: Placement,
}

impl Default for MeshWaypoint {
    fn default() -> Self {
        Self {
            scaling: Scaling::default(),
            resources: waypoint_resources(),
            placement: Placement::default(),
        }
    }
}

fn waypoint_resources() -> Resources {
    Resources {
        limits: BTreeMap::from([("memory".to_owned(), Quantity("512Mi".to_owned()))]),
        ..Resources::default()
    }
}

/// Whether connections are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLog {
    /// Every connection.
    #[default]
    Enabled,
    /// None. Denials and errors are still logged.
    Disabled,
}

/// Logs and metrics of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Whether ztunnels log a line for each connection, with both identities, addresses and byte counts: Enabled or
    /// Disabled. Denials and errors are logged in both cases. Defaults to Enabled.
    #[serde(default)]
    pub access_log: AccessLog,

    /// Log level of ztunnels, agents and waypoints: error, warn, info, debug, trace or off; or levels by module, as in
    /// `info,ambit_ztunnel=debug`. A change reaches running pods within two minutes, without a restart. Defaults to
    /// info.
    #[serde(default = "default_log_level")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9_:]+=)?(off|error|warn|info|debug|trace)(,([a-z0-9_:]+=)?(off|error|warn|info|debug|trace))*$')")
        .message("logLevel must be a level (off, error, warn, info, debug, trace) or a list like 'info,ambit_ztunnel=debug'"))]
    pub log_level: String,

    /// Metrics of connections and requests.
    #[serde(default)]
    pub metrics: Metrics,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            access_log: AccessLog::default(),
            log_level: default_log_level(),
            metrics: Metrics::default(),
        }
    }
}

/// Metrics of connections and requests. A change reaches running pods within two minutes and restarts none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Labels to remove from the metrics `istio_*` of ztunnels and waypoints. Fewer labels make fewer time series:
    /// series that differ only in removed labels become one series with their sum. The label `reporter` cannot be
    /// removed, because both ends of a connection report it and the sum would count it twice. Queries for a removed
    /// label find nothing; Kiali needs the labels of workloads, canonical services, namespaces and clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub drop_labels: Vec<MetricLabel>,

    /// Whether waypoints count each request a second time with `reporter="destination"`, as a sidecar of the
    /// destination would: Enabled or Disabled. Istio's service and workload dashboards and Flagger's checks for Istio
    /// query that reporter. Enabled doubles the series of requests, and queries that add up all reporters, such as
    /// those of Kiali, count requests twice. Defaults to Disabled.
    #[serde(default)]
    pub waypoint_reports_destination: DestinationReports,
}

/// Whether waypoints also report as the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DestinationReports {
    /// Each request is counted with `reporter="waypoint"` and with `reporter="destination"`.
    Enabled,
    /// Each request is counted with `reporter="waypoint"`.
    #[default]
    Disabled,
}

/// A label of Istio's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum MetricLabel {
    SourceWorkload,
    SourceCanonicalService,
    SourceCanonicalRevision,
    SourceWorkloadNamespace,
    SourcePrincipal,
    SourceApp,
    SourceVersion,
    SourceCluster,
    DestinationService,
    DestinationServiceNamespace,
    DestinationServiceName,
    DestinationWorkload,
    DestinationCanonicalService,
    DestinationCanonicalRevision,
    DestinationWorkloadNamespace,
    DestinationPrincipal,
    DestinationApp,
    DestinationVersion,
    DestinationCluster,
    RequestProtocol,
    ResponseCode,
    GrpcResponseStatus,
    ResponseFlags,
    ConnectionSecurityPolicy,
}

/// Status of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Ready: agent and ztunnel of every node run the version and settings of the spec. Progressing: a roll-out or the
    /// uninstallation is in progress. Degraded: a person should look; the message has the remedy. Each condition has a
    /// reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The metadata.generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Version of Ambit that runs, or is being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Nodes with a ready ztunnel, of all nodes that should have one, as in `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,

    /// The ztunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ztunnel: Option<ZtunnelStatus>,

    /// The agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<ComponentStatus>,

    /// Number of enrolled namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_namespaces: Option<i32>,

    /// Pods of the enrolled namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<MeshPods>,

    /// Settings that probably have another effect than intended: pods whose own label asks for the mesh, in namespaces
    /// that are not enrolled; nodes with captured pods that `placement` excludes from having a ztunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub warnings: Vec<String>,

    /// Configuration sent to waypoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
}

/// Counts of the ztunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZtunnelStatus {
    /// Nodes that should run a ztunnel.
    pub desired: i32,
    /// Nodes whose ztunnel has the current version and settings.
    pub updated: i32,
    /// Nodes whose ztunnel is ready.
    pub ready: i32,
}

/// Counts of a component that runs on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Nodes that should run it.
    pub desired: i32,
    /// Nodes where it is ready.
    pub ready: i32,
}

/// Counts of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshPods {
    /// Captured pods: the mesh carries their connections.
    pub captured: i32,
    /// Pods that should be captured and are not; the AmbientNamespace of their namespace has the reasons.
    pub failed: i32,
}

fn default_trust_domain() -> String {
    "cluster.local".to_owned()
}

fn default_leaf_ttl() -> String {
    "24h".to_owned()
}

fn default_log_level() -> String {
    "info".to_owned()
}

fn default_drain_deadline() -> String {
    "1m".to_owned()
}

#[cfg(test)]
mod tests;
