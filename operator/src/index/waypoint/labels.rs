//! What a namespace's labels say about waypoints.

use ambit_crds::labels;
use k8s_openapi::api::core::v1::Namespace;

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
    /// Label `istio.io/use-waypoint`.
    pub(in crate::index) use_waypoint: Option<String>,
    pub(super) waypoint_for: WaypointFor,
}

impl WaypointLabels {
    pub(in crate::index) fn of(namespace: &Namespace) -> Self {
        let label = |key: &str| namespace.metadata.labels.as_ref().and_then(|l| l.get(key));
        Self {
            use_waypoint: label(labels::USE_WAYPOINT).filter(|n| !n.is_empty()).cloned(),
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
