//! Who is in the mesh: namespaces by label or AmbientNamespace, and the pods of them that are left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use ambit_crds::{
    AccessLog, AmbientNamespace, AuthorizationRule, Enrollment, Mesh, MeshSpec, MtlsMode, Scaling, labels,
    parse_duration,
};
use k8s_openapi::api::core::v1::Namespace;

use super::PodRecord;

/// What the index keeps of the Mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRecord {
    /// It is being deleted: everything is released.
    pub deleting: bool,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Longest life of a leaf certificate.
    pub leaf_ttl: Duration,
    /// mTLS mode.
    pub mtls: MtlsMode,
    /// How long open connections get when a pod is released.
    pub drain_deadline: Duration,
    /// Whether proxies log every connection or request.
    pub access_log: bool,
    /// How waypoints scale.
    pub scaling: Scaling,
}

impl MeshRecord {
    /// The record of `mesh`. Durations that the API server let pass and that cannot be read count as the default.
    pub fn of(mesh: &Mesh) -> Self {
        Self {
            deleting: mesh.metadata.deletion_timestamp.is_some(),
            ..Self::of_spec(&mesh.spec)
        }
    }

    fn of_spec(spec: &MeshSpec) -> Self {
        Self {
            deleting: false,
            trust_domain: spec.trust_domain.clone(),
            leaf_ttl: parse_duration(&spec.identity.leaf_ttl).unwrap_or(Duration::from_secs(24 * 3600)),
            mtls: spec.mtls.mode,
            drain_deadline: parse_duration(&spec.drain_deadline).unwrap_or(Duration::from_secs(60)),
            access_log: spec.telemetry.access_log == AccessLog::Enabled,
            scaling: spec.waypoint.scaling.clone(),
        }
    }
}

impl Default for MeshRecord {
    fn default() -> Self {
        Self::of_spec(&MeshSpec::default())
    }
}

/// What the index keeps of an AmbientNamespace.
#[derive(Clone, Debug, PartialEq)]
pub struct AmbientRecord {
    /// Whether it enrolls.
    pub enrollment: Enrollment,
    /// Its own mTLS mode.
    pub mtls: Option<MtlsMode>,
    /// Ports with a mode of their own.
    pub mtls_ports: BTreeMap<u16, MtlsMode>,
    /// Its rules.
    pub rules: Vec<AuthorizationRule>,
    /// How the namespace's waypoints scale, as far as it differs from the Mesh.
    pub waypoint: Option<Scaling>,
    /// The operator made it, to carry the status, and nobody else has written its spec: it goes when the namespace's label goes.
    pub ours: bool,
}

impl AmbientRecord {
    /// The record of `object`.
    pub fn of(object: &AmbientNamespace) -> Self {
        let meta = &object.metadata;
        let of_spec = meta.managed_fields.iter().flatten().filter(|f| {
            let fields = f.fields_v1.as_ref().and_then(|fields| fields.0.get("f:spec"));
            f.subresource.as_deref().is_none_or(str::is_empty) && fields.is_some()
        });
        // Labels and annotations are anybody's, a backup's or a policy engine's: only who wrote the spec counts.
        let (operator, others): (Vec<_>, Vec<_>) =
            of_spec.partition(|f| f.manager.as_deref() == Some(labels::OPERATOR));
        let ports = object.spec.mtls.iter().flat_map(|m| &m.ports);
        Self {
            enrollment: object.spec.enrollment,
            mtls: object.spec.mtls.as_ref().map(|m| m.mode),
            mtls_ports: ports.map(|p| (p.port, p.mode)).collect(),
            rules: object.spec.authorization.clone(),
            waypoint: object.spec.waypoint.clone(),
            ours: !operator.is_empty() && others.is_empty(),
        }
    }
}

/// Whether `namespace` carries the label that enrolls it.
pub(super) fn labelled(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels
        .and_then(|l| l.get(labels::DATAPLANE_MODE))
        .is_some_and(|m| m == labels::DATAPLANE_MODE_AMBIENT)
}

/// Whether a namespace asks to be in the mesh.
pub(super) fn wants(labelled: bool, object: Option<&AmbientRecord>) -> bool {
    match object {
        Some(object) => match object.enrollment {
            Enrollment::None => false,
            Enrollment::Label => labelled,
            // As the operator wrote it before there was `Label`.
            Enrollment::Ambient => labelled || !object.ours,
        },
        None => labelled,
    }
}

/// Why a pod of an enrolled namespace is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It has no network namespace of its own.
    HostNetwork,
    /// Label `istio.io/dataplane-mode: none`.
    OptedOut,
    /// A sidecar proxy has its connections already.
    Sidecar,
    /// The mirror of a static pod: its node made it, and would choose its identity.
    MirrorPod,
    /// No service account: nothing to make an identity of.
    NoServiceAccount,
}

impl Exclusion {
    /// As the node agent is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::OptedOut => "OptedOut",
            Self::Sidecar => "Sidecar",
            Self::MirrorPod => "MirrorPod",
            Self::NoServiceAccount => "NoServiceAccount",
        }
    }

    /// Why `pod` is left alone, if it is.
    pub fn of(pod: &PodRecord) -> Option<Self> {
        if pod.host_network {
            Some(Self::HostNetwork)
        } else if pod.mirror {
            Some(Self::MirrorPod)
        } else if pod.service_account.is_empty() {
            Some(Self::NoServiceAccount)
        } else if pod.opted_out {
            Some(Self::OptedOut)
        } else if pod.sidecar {
            Some(Self::Sidecar)
        } else {
            None
        }
    }
}
