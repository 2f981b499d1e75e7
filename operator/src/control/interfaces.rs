use std::sync::Arc;
use std::time::Duration;

use ambit_wire::agent::{NodeState, PodReport};
use ambit_wire::xds::Collection;

/// A pod as the control plane needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.serviceAccountName`; empty where there is none.
    pub service_account: String,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Selected for capture: it stands in an enrolled namespace and nothing opts it out.
    pub enrolled: bool,
    /// The waypoint (of its namespace) that it is a replica of: it runs as the waypoint's service account, belongs to the Deployment that the
    /// operator applied, and the waypoint is wanted or drains.
    pub waypoint: Option<String>,
    /// UID of the ServiceAccount that the operator applied for that waypoint.
    pub service_account_uid: Option<String>,
}

/// What the Mesh says about identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Longest life of a leaf certificate.
    pub leaf_ttl: Duration,
}

/// Who runs where, from the operator's watch caches.
pub trait Directory: Send + Sync + 'static {
    /// Whether all caches have been filled once. Until then callers are told to come again, instead of being refused.
    fn is_ready(&self) -> bool;

    /// The pod of this UID; `None` once it is deleted or has ended.
    fn pod(&self, uid: &str) -> Option<PodInfo>;

    /// Some pod on `node` that is live, enrolled, not on the host network, and runs as this service account.
    fn enrolled_pod(&self, node: &str, namespace: &str, service_account: &str) -> Option<PodInfo>;

    /// The settings of the Mesh, or the defaults while there is none.
    fn mesh(&self) -> MeshSettings;
}

/// What one waypoint is told. All of them live as long as the waypoint does.
#[derive(Debug, Clone)]
pub struct WaypointCollections {
    /// `ambit.waypoint.v1.Settings`: one resource, `waypoint`.
    pub settings: Arc<Collection>,
    /// `ambit.waypoint.v1.Service`, named `namespace/hostname`.
    pub services: Arc<Collection>,
    /// `ambit.waypoint.v1.Policy`, named `namespace/name`.
    pub policies: Arc<Collection>,
    /// `istio.workload.Workload`, named by uid.
    pub workloads: Arc<Collection>,
    /// `istio.security.Authorization`, named `namespace/name`: those that apply to the workloads.
    pub authorizations: Arc<Collection>,
}

/// What proxies and agents are told. The collections live as long as the operator: asked twice, the same one is returned. They
/// become ready once the caches they are made from have been filled.
pub trait Sources: Send + Sync + 'static {
    /// `istio.workload.Address`: all workloads (named by uid) and services (named `namespace/hostname`).
    fn addresses(&self) -> Arc<Collection>;

    /// `istio.security.Authorization`, named `namespace/name`: those of the whole mesh, and of namespaces that have pods on the node.
    fn authorizations(&self, node: &str) -> Arc<Collection>;

    /// `ambit.agent.v1.PodCapture` of all pods of one node, named by the pod's UID. For a node without pods, or not known yet: an
    /// empty collection.
    fn pod_captures(&self, node: &str) -> Arc<Collection>;

    /// `ambit.agent.v1.EnrolledNamespace`, named by the namespace.
    fn enrolled_namespaces(&self) -> Arc<Collection>;

    /// `ambit.agent.v1.NodeConfig` of one node: one resource, `node`.
    fn node_config(&self, node: &str) -> Arc<Collection>;

    /// What the waypoint `name` of `namespace` is told; `None` for one that is neither wanted nor has a Service any more.
    fn waypoint(&self, namespace: &str, name: &str) -> Option<WaypointCollections>;
}

/// The pod of a node agent that reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node it speaks for.
    pub node: String,
}

/// Why a report could not be recorded; the agent reports again later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);

/// Where agents' reports are recorded. The caller has checked that the pod reported on is the agent's node's.
#[tonic::async_trait]
pub trait CaptureSink: Send + Sync + 'static {
    /// Writes the capture mark, or the failure, on the pod. A pod that is gone by now is no error. No write when nothing changes.
    async fn record_pod(&self, pod: &PodInfo, report: &PodReport) -> Result<(), RecordError>;

    /// Records what the agent as a whole has done, on the agent's own pod.
    async fn record_node(&self, agent: &AgentPod, state: NodeState) -> Result<(), RecordError>;
}
