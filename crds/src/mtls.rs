//! Mutual TLS mode, of the mesh and of a namespace.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What captured pods accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Mutual TLS and plaintext.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// Mutual TLS towards captured pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// Which connections captured pods accept. Permissive: mutual TLS and plaintext, so that callers outside of the
    /// mesh continue to work. Strict: mutual TLS only; plaintext is denied, except for the kubelet's probes. Between
    /// captured pods traffic is mutual TLS in both modes. Defaults to Permissive.
    #[serde(default)]
    pub mode: MtlsMode,
}

/// Mutual TLS towards the captured pods of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceMtls {
    /// Which connections the namespace's captured pods accept; overrides the Mesh. Permissive: mutual TLS and
    /// plaintext. Strict: mutual TLS only; plaintext is denied, except for the kubelet's probes.
    pub mode: MtlsMode,

    /// Ports with another mode than `mode`: metrics that a program outside of the mesh reads in plaintext, or one port
    /// that is closed to plaintext before the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<PortMtls>,
}

/// Mutual TLS on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortMtls {
    /// A port of the pods (not of a Service in front of them), 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Which connections pods accept on the port.
    pub mode: MtlsMode,
}
