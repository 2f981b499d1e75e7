//! Names and numbers that two programs must agree on.

/// The port for outbound connections of a captured pod.
pub const PORT_OUTBOUND: u16 = 15001;
/// The port for inbound plaintext of a captured pod.
pub const PORT_INBOUND: u16 = 15006;
/// HBONE: HTTP/2 CONNECT in mutual TLS.
pub const PORT_HBONE: u16 = 15008;
/// On the loopback of a captured pod: only the proxy connects to it, to create its other sockets.
pub const PORT_SEED: u16 = 15009;
/// Admin on localhost: config dump.
pub const PORT_ADMIN: u16 = 15000;
/// The control plane: delta xDS, CA, agent reports, over TLS.
pub const PORT_CONTROL: u16 = 15012;
/// Prometheus metrics.
pub const PORT_METRICS: u16 = 15020;
/// Readiness.
pub const PORT_READY: u16 = 15021;

/// Socket mark of the proxy's own connections in a pod, which are not redirected again.
pub const MARK_PROXY: u32 = 0x539;
/// Packet mark of outbound packets of the application in a captured pod: they go over the loopback to the proxy.
pub const MARK_REDIRECTED: u32 = 0x77;
/// Routing table for [`MARK_REDIRECTED`].
pub const ROUTE_TABLE: u32 = 100;
/// Source address that kubelet probes get on the node, so that a pod can distinguish them from other connections.
pub const PROBE_SOURCE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 7, 127);

/// Uid and gid of the unprivileged proxies.
pub const PROXY_UID: u32 = 65532;
/// Audience of the service-account tokens that authenticate callers of the control plane.
pub const TOKEN_AUDIENCE: &str = "istio-ca";
/// The socket on which the agent listens for ztunnels (`SOCK_SEQPACKET`).
pub const BROKER_SOCKET: &str = "/run/ambit/broker/ztunnel.sock";
/// The socket on which the agent listens for its CNI plugin.
pub const CNI_SOCKET: &str = "/run/ambit/cni/cni.sock";
/// Version of the broker protocol, in `Hello`.
pub const BROKER_VERSION: u32 = 2;
/// The maximum of descriptors in one broker message.
pub const BROKER_MAX_SOCKETS: usize = 16;

/// Header of a CONNECT: the client address of a plaintext connection to the same destination. The CONNECT is accepted
/// (202) if that connection was denied before any byte of it was read. Otherwise it is refused (412).
pub const HEADER_DENIED: &str = "x-ambit-denied";
/// Header of the response to a CONNECT that a guard denies (401), with the full name of the guard: the caller has to
/// come through a waypoint, of which its node may not know yet.
pub const HEADER_GUARD: &str = "x-ambit-guard";
/// What the names of guards begin with: authorizations of the control plane that keep the ways around waypoints closed.
/// `ambit-guard-<service>` is about the pods of a Service, and may end in `:<ports>`; `ambit-guard:<waypoint>` is about
/// pods that are reached through a waypoint at their own addresses. Rules of users have no such names on the wire.
pub const GUARD_PREFIX: &str = "ambit-guard";

/// Whose ways a guard keeps closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded<'a> {
    /// The pods of this Service.
    Service(&'a str),
    /// Pods that have a waypoint of their own.
    Pods,
}

/// Namespace and subject of a guard, by its full name; `None` for any other authorization.
pub fn guarded(name: &str) -> Option<(&str, Guarded<'_>)> {
    let (namespace, name) = name.split_once('/')?;
    let subject = name.strip_prefix(GUARD_PREFIX)?;
    if subject.starts_with(':') {
        return Some((namespace, Guarded::Pods));
    }
    let service = subject.strip_prefix('-')?;
    let service = service.split_once(':').map_or(service, |(service, _)| service);
    Some((namespace, Guarded::Service(service)))
}

/// Type URL of `istio.workload.Address`.
pub const TYPE_ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of `istio.workload.Workload`.
pub const TYPE_WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
/// Type URL of `istio.security.Authorization`.
pub const TYPE_AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of `ambit.agent.v1.PodCapture`.
pub const TYPE_POD_CAPTURE: &str = "type.googleapis.com/ambit.agent.v1.PodCapture";
/// Type URL of `ambit.agent.v1.EnrolledNamespace`.
pub const TYPE_ENROLLED_NAMESPACE: &str = "type.googleapis.com/ambit.agent.v1.EnrolledNamespace";
/// Type URL of `ambit.agent.v1.NodeConfig`.
pub const TYPE_NODE_CONFIG: &str = "type.googleapis.com/ambit.agent.v1.NodeConfig";
/// Type URL of `ambit.waypoint.v1.Settings`.
pub const TYPE_WAYPOINT_SETTINGS: &str = "type.googleapis.com/ambit.waypoint.v1.Settings";
/// Type URL of `ambit.waypoint.v1.Service`.
pub const TYPE_WAYPOINT_SERVICE: &str = "type.googleapis.com/ambit.waypoint.v1.Service";
/// Type URL of `ambit.waypoint.v1.Route`.
pub const TYPE_WAYPOINT_ROUTE: &str = "type.googleapis.com/ambit.waypoint.v1.Route";
/// Type URL of `ambit.waypoint.v1.Backend`.
pub const TYPE_WAYPOINT_BACKEND: &str = "type.googleapis.com/ambit.waypoint.v1.Backend";
/// Type URL of `ambit.waypoint.v1.Policy`.
pub const TYPE_WAYPOINT_POLICY: &str = "type.googleapis.com/ambit.waypoint.v1.Policy";
/// Name of the only `ambit.waypoint.v1.Settings`.
pub const WAYPOINT_SETTINGS: &str = "waypoint";

/// Name of the Deployment, the service account and the Service of the control plane.
pub const CONTROL: &str = "ambit-control";
/// Name of the Deployment and the service account of the operator.
pub const OPERATOR: &str = "ambit-operator";

/// Name of the ConfigMap with the root certificate of the mesh, in the control plane's namespace, and as a copy in
/// namespaces with waypoints.
pub const ROOT_CONFIG_MAP: &str = "ambit-ca-root";
/// The key of the certificate in that ConfigMap.
pub const ROOT_KEY: &str = "root-cert.pem";

/// Namespace of Ambit's own pods unless configured otherwise.
pub const SYSTEM_NAMESPACE: &str = "ambit-system";
/// Name (`namespace/name`, namespace [`SYSTEM_NAMESPACE`]) of the authorization for strict mTLS, which denies callers
/// without a principal.
pub const STRICT_POLICY: &str = "strict-mtls";
/// Separates the variant in the name of an authorization.
pub use ambit_policy::VARIANT_END as POLICY_VARIANT_END;
/// Default SPIFFE trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// Labels of Istio's TCP metrics, in the order in which both proxies pass the values.
pub const ISTIO_TCP_LABELS: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_told_from_rules_of_users() {
        for (name, expected) in [
            ("shop/ambit-guard-web", Some(("shop", Guarded::Service("web")))),
            (
                "shop/ambit-guard-web:80,90",
                Some(("shop", Guarded::Service("web"))),
            ),
            ("shop/ambit-guard:waypoint", Some(("shop", Guarded::Pods))),
            ("shop/ambit-guardian", None),
            ("shop/rule::ambit-guard-web", None),
            ("shop/web", None),
            ("ambit-guard-web", None),
        ] {
            assert_eq!(guarded(name), expected, "{name}");
        }
    }
}
