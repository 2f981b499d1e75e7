//! What a namespace's labels say about waypoints.

use ambit_crds::labels;
use k8s_openapi::api::core::v1::Namespace;

use crate::index::Key;

/// What the labels of a Service or a namespace say of the waypoint to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::index) struct UseWaypoint {
    /// Label `istio.io/use-waypoint`.
    name: String,
    /// Label `istio.io/use-waypoint-namespace`; `None`: the object's own.
    namespace: Option<String>,
}

impl UseWaypoint {
    /// What an object's labels say; `None` where they ask for nothing.
    pub(in crate::index) fn of(label: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let given = |key: &str| label(key).filter(|value| !value.is_empty());
        Some(Self {
            name: given(labels::USE_WAYPOINT)?,
            namespace: given(labels::USE_WAYPOINT_NAMESPACE),
        })
    }

    /// The waypoint, where the object is of `namespace`; `None` where it is to use none.
    pub(in crate::index) fn waypoint(&self, namespace: &str) -> Option<Key> {
        let namespace = self.namespace.as_deref().unwrap_or(namespace);
        (self.name != labels::USE_WAYPOINT_NONE).then(|| Key::new(namespace, self.name.clone()))
    }
}

/// Label `istio.io/waypoint-for`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::index) enum WaypointFor {
    #[default]
    Service,
    Workload,
    All,
    None,
}

impl WaypointFor {
    pub(in crate::index) fn of(value: &str) -> Self {
        match value {
            labels::WAYPOINT_FOR_WORKLOAD => Self::Workload,
            labels::WAYPOINT_FOR_ALL => Self::All,
            labels::WAYPOINT_FOR_NONE => Self::None,
            // Also for a value that nobody knows: rules are rather enforced than not.
            _ => Self::Service,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Service => labels::WAYPOINT_FOR_SERVICE,
            Self::Workload => labels::WAYPOINT_FOR_WORKLOAD,
            Self::All => labels::WAYPOINT_FOR_ALL,
            Self::None => labels::WAYPOINT_FOR_NONE,
        }
    }

    /// Connections to Services' addresses.
    pub(super) fn services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Connections to pods' own addresses.
    pub(super) fn workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }
}

/// What a namespace's labels say about waypoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::index) struct WaypointLabels {
    pub(in crate::index) use_waypoint: Option<UseWaypoint>,
    pub(super) waypoint_for: WaypointFor,
}

impl WaypointLabels {
    pub(in crate::index) fn of(namespace: &Namespace) -> Self {
        let label = |key: &str| namespace.metadata.labels.as_ref().and_then(|l| l.get(key));
        Self {
            use_waypoint: UseWaypoint::of(|key| label(key).cloned()),
            waypoint_for: label(labels::WAYPOINT_FOR)
                .map(|v| WaypointFor::of(v))
                .unwrap_or_default(),
        }
    }

    /// Whether they say nothing but the defaults.
    pub(in crate::index) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
