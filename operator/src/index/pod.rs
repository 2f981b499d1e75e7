//! What the index keeps of a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ambit_crds::labels;
use ambit_wire::clipped;
use ambit_wire::workload::WorkloadType;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::service::is_tcp;
use super::waypoint::UseWaypoint;
use super::{owner, probes};

/// Longest failure of a capture, in bytes, as it is written on a pod and as it is read from there: whoever may write the pod may write
/// more, and statuses repeat it.
pub(crate) const LONGEST_FAILURE: usize = 1024;
/// Set by the kubelet on the mirror of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the index keeps of a live pod. Two equal records mean the same configuration, so an event that changes nothing of it is
/// passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: String,
    /// `spec.serviceAccountName`; empty for a pod without one, which has no identity.
    pub service_account: String,
    /// The mirror of a static pod: the kubelet of its node made it, and it says of itself what that node likes.
    pub mirror: bool,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// The Ready condition.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `metadata.labels`; the index keeps those that replicas have in common once.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `metadata.creationTimestamp`, seconds since 1970: of two pods with one address, the newer one has it.
    pub created: i64,
    /// `status.startTime`, the same; 0 until its node has taken it on.
    pub started: i64,
    /// Carries the capture mark.
    pub marked: bool,
    /// What is said to have failed, as the annotation has it.
    pub failure: Option<String>,
    /// Has a sidecar proxy.
    pub sidecar: bool,
    /// Label `istio.io/dataplane-mode: none`.
    pub opted_out: bool,
    /// Name and UID of the ReplicaSet that controls it; kept of pods that may be a waypoint's.
    pub replica_set: Option<(String, String)>,
    /// Ports that the kubelet connects to.
    pub probe_ports: BTreeSet<u16>,
    /// TCP ports that its containers declare with a name, in the order in which a Service's `targetPort` is looked for among them.
    pub named_ports: Box<[(String, u16)]>,
    /// Name of the workload (Deployment, Job, …).
    pub workload_name: String,
    /// Type of the workload.
    pub workload_type: WorkloadType,
}

/// How strong a pod's claim to its addresses is; the stronger one is greater.
pub(super) type Claim = (bool, i64, i64);

impl PodRecord {
    /// The record of `pod`; `None` when it has ended (Succeeded or Failed): its address may be another's by now.
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref()?;
        let status = pod.status.clone().unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let annotation = |key: &str| {
            meta.annotations
                .as_ref()
                .and_then(|a| a.get(key))
                .map(String::as_str)
        };
        let labels = meta.labels.clone().unwrap_or_default();
        let (workload_name, workload_type) = owner::workload(pod);
        let replica_set = labels
            .contains_key(labels::WAYPOINT_NAME)
            .then(|| owner::replica_set(meta))
            .flatten();
        Some(Self {
            uid: meta.uid.clone()?,
            node: spec.node_name.clone().unwrap_or_default(),
            // Admission sets it on every pod but a mirror: an empty one is nobody's, `default` included.
            service_account: spec.service_account_name.clone().unwrap_or_default(),
            mirror: annotation(MIRROR).is_some(),
            host_network: spec.host_network.unwrap_or_default(),
            ready: status
                .conditions
                .iter()
                .flatten()
                .any(|c| c.type_ == "Ready" && c.status == "True"),
            terminating: meta.deletion_timestamp.is_some(),
            addresses: addresses(&status.pod_ips.unwrap_or_default(), status.pod_ip.as_deref()),
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            started: status.start_time.as_ref().map_or(0, |t| t.0.as_second()),
            marked: annotation(labels::CAPTURE_MARK) == Some(labels::CAPTURED),
            failure: annotation(labels::CAPTURE_FAILURE)
                .map(|text| clipped(text, LONGEST_FAILURE).to_owned()),
            sidecar: annotation(labels::SIDECAR_STATUS).is_some_and(|s| !s.is_empty()),
            opted_out: labels
                .get(labels::DATAPLANE_MODE)
                .is_some_and(|m| m == labels::DATAPLANE_MODE_NONE),
            replica_set,
            probe_ports: probes::ports(pod),
            named_ports: named_ports(spec),
            labels: Arc::new(labels),
            workload_name,
            workload_type,
        })
    }

    /// Whether it can have an identity: without one it is never captured, whatever it says of itself.
    pub(super) fn has_identity(&self) -> bool {
        !self.mirror && !self.service_account.is_empty()
    }

    /// The port that a Service's `targetPort` of this name stands for.
    pub(super) fn port(&self, name: &str) -> Option<u16> {
        let mut ports = self.named_ports.iter();
        ports.find(|(of, _)| of == name).map(|(_, port)| *port)
    }

    /// How strong its claim to its addresses is: a pod that ends gives its address back, and what was created later may have had it earlier.
    pub(super) fn claim(&self) -> Claim {
        (!self.terminating, self.started, self.created)
    }

    /// The waypoint that its labels ask for.
    pub(super) fn use_waypoint(&self) -> Option<UseWaypoint> {
        UseWaypoint::of(|key| self.labels.get(key).cloned())
    }

    /// The waypoint that its label and its ServiceAccount say it is a replica of. That proves nothing: see `Index::replica_of`.
    pub(super) fn claimed_waypoint(&self) -> Option<&str> {
        let name = self.labels.get(labels::WAYPOINT_NAME)?;
        (*name == self.service_account).then_some(name.as_str())
    }

    /// Whether waypoints of its namespace may depend on more of it than any pod's endpoint.
    pub(super) fn concerns_waypoints(&self) -> bool {
        self.use_waypoint().is_some() || self.claimed_waypoint().is_some()
    }

    /// Canonical name and revision, as metrics carry them.
    pub fn canonical(&self) -> (&str, &str) {
        let first = |keys: &[&str]| {
            keys.iter()
                .find_map(|k| self.labels.get(*k))
                .filter(|v| !v.is_empty())
                .map(String::as_str)
        };
        let name = first(&[labels::CANONICAL_NAME, labels::NAME, "app"]).unwrap_or(&self.workload_name);
        let revision = first(&[labels::CANONICAL_REVISION, labels::VERSION, "version"]).unwrap_or("latest");
        (name, revision)
    }
}

/// As Kubernetes' EndpointSlice controller looks for them (`FindPort` in `k8s.io/kubernetes/pkg/api/v1/pod`): in the containers, then in the
/// sidecars (init containers with `restartPolicy: Always`).
fn named_ports(spec: &PodSpec) -> Box<[(String, u16)]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
    let named = ports
        .flatten()
        .filter(|p| is_tcp(p.protocol.as_deref()))
        .filter_map(|p| Some((p.name.clone()?, probes::number(p.container_port)?)));
    named.collect()
}

fn addresses(all: &[k8s_openapi::api::core::v1::PodIP], first: Option<&str>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = all.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(first.and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    found
}
