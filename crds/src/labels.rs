//! Labels, annotations and names. Those of `istio.io` have the meaning of Istio's ambient mode, so that manifests carry
//! over.

/// On a namespace (`ambient`) or a pod (`none`, to opt out; `ambient` has no effect on a pod).
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Value of [`DATAPLANE_MODE`] that enrols a namespace.
pub const DATAPLANE_MODE_AMBIENT: &str = "ambient";
/// Value of [`DATAPLANE_MODE`] that opts out.
pub const DATAPLANE_MODE_NONE: &str = "none";
/// On a Service, a pod or a namespace: the waypoint (of the same namespace) through which it is reached.
/// [`USE_WAYPOINT_NONE`] means none, whatever policies exist. The label of a pod or a Service precedes that of its
/// namespace.
pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Value of [`USE_WAYPOINT`] for no waypoint.
pub const USE_WAYPOINT_NONE: &str = "none";
/// On a Service: the namespace of the waypoint that [`USE_WAYPOINT`] names. Ambit's waypoints serve their own namespace only.
pub const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// On a namespace or a Gateway: which connections its waypoints handle. Defaults to [`WAYPOINT_FOR_SERVICE`].
pub const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Value of [`WAYPOINT_FOR`]: connections to a Service's virtual address.
pub const WAYPOINT_FOR_SERVICE: &str = "service";
/// Value of [`WAYPOINT_FOR`]: connections to a pod's own address.
pub const WAYPOINT_FOR_WORKLOAD: &str = "workload";
/// Value of [`WAYPOINT_FOR`]: both.
pub const WAYPOINT_FOR_ALL: &str = "all";
/// Value of [`WAYPOINT_FOR`]: neither.
pub const WAYPOINT_FOR_NONE: &str = "none";
/// Name of the waypoint that a policy creates if no label names one.
pub const WAYPOINT: &str = "waypoint";
/// Label on a waypoint's objects and pods: the waypoint's name.
pub const WAYPOINT_NAME: &str = "ambit.dev/waypoint";

/// Label on the objects and pods of a waypoint, its name: tools that know Istio look for it.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label on the objects and pods of a waypoint: tools that know Istio recognize waypoints by it.
pub const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";
/// Value of [`GATEWAY_MANAGED`] of waypoints.
pub const GATEWAY_MANAGED_MESH: &str = "istio.io-mesh-controller";

/// Annotation: the capture mark. A pod that has it with the value [`CAPTURED`] is reached over HBONE.
pub const CAPTURE_MARK: &str = "ambient.istio.io/redirection";
/// Value of [`CAPTURE_MARK`].
pub const CAPTURED: &str = "enabled";
/// Annotation on a pod whose capture failed: `<Reason>: <message>`.
pub const CAPTURE_FAILURE: &str = "ambit.dev/capture-failure";
/// Annotation on an agent's own pod: [`TRUE`] when the agent has released everything on the node.
pub const UNINSTALLED: &str = "ambit.dev/uninstalled";
/// Annotation on pods with a sidecar proxy, which the mesh leaves alone.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// Annotation on a waypoint's Deployment: hash of the settings that all waypoints share.
pub const TEMPLATE_HASH: &str = "ambit.dev/template-hash";
/// Annotation: hash of the desired state from which an object was applied.
pub const APPLIED_HASH: &str = "ambit.dev/applied-hash";

/// Label on objects that the operator creates, with value [`OPERATOR`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const OPERATOR: &str = "ambit-operator";
/// Label: name of the application.
pub const NAME: &str = "app.kubernetes.io/name";
/// Label: the whole it belongs to.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Value of [`PART_OF`].
pub const AMBIT: &str = "ambit";
/// Label: version of the application.
pub const VERSION: &str = "app.kubernetes.io/version";

/// Label that overrides a workload's canonical name.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Label that overrides a workload's canonical revision.
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// Finalizer on the Mesh: every pod is released before the agents are removed.
pub const FINALIZER: &str = "ambit.dev/unenroll";
/// The one Mesh.
pub const MESH: &str = "default";
/// The one AmbientNamespace of a namespace.
pub const AMBIENT_NAMESPACE: &str = "ambient";

/// "true", as annotations have it.
pub const TRUE: &str = "true";

/// Condition: the state is that of the spec.
pub const CONDITION_READY: &str = "Ready";
/// Condition: a change is in progress.
pub const CONDITION_PROGRESSING: &str = "Progressing";
/// Condition: a person should look.
pub const CONDITION_DEGRADED: &str = "Degraded";
/// Condition, present only while it is True: a change is in progress. Tools that use kstatus (Flux, kpt) wait.
pub const CONDITION_RECONCILING: &str = "Reconciling";
/// Condition, present only while it is True: nothing changes until a person acts. Tools that use kstatus fail.
pub const CONDITION_STALLED: &str = "Stalled";
/// Condition of a policy: it is valid, and its target exists.
pub const CONDITION_ACCEPTED: &str = "Accepted";
/// Condition of a policy: a waypoint enforces it.
pub const CONDITION_PROGRAMMED: &str = "Programmed";

/// Namespaces that are never enrolled, besides Ambit's own: capture there could prevent a node from starting.
pub const NEVER_ENROLLED: &[&str] = &["kube-system"];
