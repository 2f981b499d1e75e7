//! Which waypoint a Service is reached through, and what applies to it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ambit_crds::labels;

use super::labels::{WaypointFor, WaypointLabels};
use crate::index::policy::Part;
use crate::index::route::{Attachment, RouteId};
use crate::index::{Key, ServiceRecord};

/// What the labels and policies ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// No waypoint.
    #[default]
    No,
    /// This one.
    Waypoint(Key),
    /// This one of its own namespace, since it may not use the one of another that labels name.
    Instead(Key),
    /// One, but a label keeps it away.
    OptedOut(OptOut),
    /// One, but there is no address that it could stand in front of.
    NoVirtualAddress,
}

/// The label that keeps a waypoint away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptOut {
    /// `istio.io/use-waypoint: none` on the Service.
    Service,
    /// The same on the namespace.
    Namespace,
    /// `istio.io/waypoint-for` on the namespace.
    For(WaypointFor),
    /// The same on the Gateway that declares the waypoint.
    Gateway(WaypointFor),
    /// `allowedRoutes` of that Gateway.
    NotAllowed,
    /// It is another namespace's, and no Gateway there declares it.
    NotDeclared,
    /// It is another namespace's, which is not in the mesh.
    NotEnrolled,
}

impl std::fmt::Display for OptOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service => write!(f, "label {}: none on the Service", labels::USE_WAYPOINT),
            Self::Namespace => write!(f, "label {}: none on the namespace", labels::USE_WAYPOINT),
            Self::For(what) => {
                write!(
                    f,
                    "label {}: {} on the namespace",
                    labels::WAYPOINT_FOR,
                    what.as_str()
                )
            }
            Self::Gateway(what) => {
                write!(
                    f,
                    "label {}: {} on the Gateway",
                    labels::WAYPOINT_FOR,
                    what.as_str()
                )
            }
            Self::NotAllowed => write!(f, "allowedRoutes of the Gateway does not select the namespace"),
            Self::NotDeclared => write!(
                f,
                "its namespace has no Gateway of that name that declares a waypoint"
            ),
            Self::NotEnrolled => write!(f, "its namespace is not in the mesh"),
        }
    }
}

impl Asked {
    /// What is asked for a Service of `namespace`, which has these labels; `targeted` by a policy or a route, or not. `may_use` tells whether
    /// the namespace's Services may use a waypoint.
    pub(super) fn of(
        service: &ServiceRecord,
        namespace: &str,
        labels: &WaypointLabels,
        targeted: bool,
        may_use: impl Fn(&Key) -> Result<(), OptOut>,
    ) -> Self {
        let default = Key::new(namespace, labels::WAYPOINT);
        let (uses, none) = match (&service.use_waypoint, &labels.use_waypoint) {
            (Some(own), _) => (own.waypoint(namespace), OptOut::Service),
            (None, Some(all)) => (all.waypoint(namespace), OptOut::Namespace),
            (None, None) if targeted => (Some(default.clone()), OptOut::Namespace),
            (None, None) => return Self::No,
        };
        let Some(waypoint) = uses else {
            return Self::OptedOut(none);
        };
        // Whoever declares the waypoint must not be able to take another namespace's policies out of force.
        let instead = targeted && waypoint.namespace != namespace;
        match may_use(&waypoint) {
            Err(why) if !instead => Self::OptedOut(why),
            _ if service.addresses.is_empty() => Self::NoVirtualAddress,
            Err(_) => Self::Instead(default),
            Ok(()) => Self::Waypoint(waypoint),
        }
    }

    pub(super) fn waypoint(&self) -> Option<&Key> {
        match self {
            Self::Waypoint(key) | Self::Instead(key) => Some(key),
            _ => None,
        }
    }
}

/// A Service and its waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) asked: Asked,
    /// What ztunnels are told: what is asked for, once the waypoint has been ready.
    pub(super) in_force: Option<Key>,
    pub(super) applying: Applying,
    /// Routes that apply to it, that with precedence first.
    pub(super) routes: Vec<Attachment>,
    /// Captured pods behind it that the guard protects.
    pub(super) guarded: BTreeSet<String>,
    /// Pods behind it that are not captured, so that nothing guards them.
    pub(super) unguarded: BTreeSet<String>,
    /// Addresses behind it that are not said to be pods.
    pub(super) bare: BTreeSet<IpAddr>,
}

impl Binding {
    /// Whether it is reached through its waypoint or not at all, even if that has never been ready: it may have been reached through another
    /// namespace's, with policies, until that was withdrawn.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.asked, Asked::Instead(_)) && self.applying.decides()
    }

    /// Whether its pods take connections from waypoints alone.
    pub(super) fn is_guarded(&self) -> bool {
        self.in_force.is_some() && self.applying.decides()
    }
}

/// The policies that apply to a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applying {
    /// For all of it, those for the Gateway of its waypoint and for the namespace included.
    pub(super) whole: Part,
    /// For its ports, where there are any.
    pub(super) ports: BTreeMap<u16, Part>,
    /// Policies that decide of its namespace's routes.
    pub(super) routes: Vec<RouteScope>,
    /// Some that decide are for the Service itself, a part of it or a route.
    pub(super) own: bool,
}

/// Policies that decide of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteScope {
    pub(super) route: RouteId,
    /// Ports of the Service that the route is about; none: all of them.
    pub(super) ports: BTreeSet<u16>,
    /// Set by set.
    pub(super) sets: Vec<Vec<Key>>,
}

impl Applying {
    /// Whether some rule is enforced.
    pub(super) fn decides(&self) -> bool {
        let ports = self.ports.values().any(Part::decides);
        ports || self.whole.decides() || !self.routes.is_empty()
    }

    /// Ports for requests to which some rule is enforced; `None`: all of them.
    pub(super) fn decided_ports(&self) -> Option<BTreeSet<u16>> {
        if self.whole.decides() || self.routes.iter().any(|route| route.ports.is_empty()) {
            return None;
        }
        let ports = self.ports.iter().filter(|(_, part)| part.decides());
        let of_routes = self.routes.iter().flat_map(|route| &route.ports);
        Some(ports.map(|(port, _)| port).chain(of_routes).copied().collect())
    }

    /// Its parts: of the whole, and of ports.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.whole).chain(self.ports.values())
    }
}
