use std::sync::Arc;
use std::time::Duration;

use ambit_wire::agent::{NodeState, PodReport};
use ambit_wire::xds::Collection;

/// A pod, as the control plane needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.serviceAccountName`; empty if absent.
    pub service_account: String,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// To be captured: it is in an enrolled namespace and has not opted out.
    pub enrolled: bool,
    /// The waypoint (of its namespace) of which it is a replica: it runs as the waypoint's service account, belongs to
    /// the Deployment that the operator applied, and the waypoint is desired or drains.
    /// operator applied, and the waypoint is wanted or drains.
    pub waypoint: Option<String>,
    /// UID of the ServiceAccount that the operator applied for that waypoint.
    pub service_account_uid: Option<String>,
}

/// The Mesh's settings for identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Longest life of a leaf certificate.
    pub leaf_ttl: Duration,
}

/// Pods and settings, from the watch caches.
pub trait Directory: Send + Sync + 'static {
    /// Whether the initial sync is done. Until then clients are asked to retry, instead of being refused.
    fn is_ready(&self) -> bool;

    /// The pod with this UID; `None` once it is deleted or has ended.
    fn pod(&self, uid: &str) -> Option<PodInfo>;

    /// A pod on `node` that is live, enrolled, not on the host network, and has this service account.
    fn enrolled_pod(&self, node: &str, namespace: &str, service_account: &str) -> Option<PodInfo>;

    /// The settings of the Mesh, or the defaults while there is none.
    fn mesh(&self) -> MeshSettings;
}

/// The configuration of one waypoint. The collections live as long as the waypoint.
#[derive(Debug, Clone)]
pub struct WaypointCollections {
    /// `ambit.waypoint.v1.Settings`: one resource, `waypoint`.
    pub settings: Arc<Collection>,
    /// `ambit.waypoint.v1.Service`, named `namespace/hostname`.
    pub services: Arc<Collection>,
    /// `ambit.waypoint.v1.Route`, named `kind/namespace/name`.
    pub routes: Arc<Collection>,
    /// `ambit.waypoint.v1.Backend`, named `namespace/hostname`.
    pub backends: Arc<Collection>,
    /// `ambit.waypoint.v1.Policy`, named `namespace/name`.
    pub policies: Arc<Collection>,
    /// `istio.workload.Workload`, named by uid.
    pub workloads: Arc<Collection>,
    /// `istio.security.Authorization`, named `namespace/name`: those that apply to the workloads.
    pub authorizations: Arc<Collection>,
}

/// The configuration of proxies and agents. The collections live as long as the process: two calls return the same one.
/// They become ready after the initial sync.
pub trait Sources: Send + Sync + 'static {
    /// `istio.workload.Address`: all workloads (named by uid) and services (named `namespace/hostname`).
    fn addresses(&self) -> Arc<Collection>;

    /// `istio.security.Authorization`, named `namespace/name`: those of the whole mesh, and of namespaces that have
    /// pods on the node.
    fn authorizations(&self, node: &str) -> Arc<Collection>;

    /// `ambit.agent.v1.PodCapture` of all pods of one node, named by the pod's UID. For a node without pods, or an
    /// unknown node: an empty collection.
    fn pod_captures(&self, node: &str) -> Arc<Collection>;

    /// `ambit.agent.v1.EnrolledNamespace`, named by the namespace.
    fn enrolled_namespaces(&self) -> Arc<Collection>;

    /// `ambit.agent.v1.NodeConfig` of one node: one resource, `node`.
    fn node_config(&self, node: &str) -> Arc<Collection>;

    /// The configuration of the waypoint `name` of `namespace`; `None` for one that is not desired and has no Service
    /// any more.
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
    /// Its node.
    pub node: String,
}

/// Why a report could not be recorded; the agent sends it again later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);

/// Records the reports of agents. The caller has checked that the reported pod is on the agent's node.
#[tonic::async_trait]
pub trait CaptureSink: Send + Sync + 'static {
    /// Writes the capture mark, or the failure, on the pod. A deleted pod is not an error. Writes nothing if nothing
    /// changes.
    async fn record_pod(&self, pod: &PodInfo, report: &PodReport) -> Result<(), RecordError>;

    /// Records the state of the agent as a whole, on the agent's own pod.
    async fn record_node(&self, agent: &AgentPod, state: NodeState) -> Result<(), RecordError>;
}
