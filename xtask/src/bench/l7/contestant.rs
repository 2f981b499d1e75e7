//! What is measured: proxies, and the way without one.

use clap::ValueEnum;

/// A row of one of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Contestant {
    /// No proxy: HBONE from the load to the backend.
    DirectHbone,
    /// Our waypoint.
    Ambit,
    /// Our waypoint, its access log on.
    AmbitLog,
    /// Envoy as a waypoint.
    Envoy,
    /// Envoy as a waypoint, its access log on.
    EnvoyLog,
    /// Our waypoint with 1,000 routes.
    AmbitRoutes,
    /// Envoy as a waypoint with 1,000 routes.
    EnvoyRoutes,
    /// No proxy: HTTP/1.1 from the load to the backend.
    Direct,
    /// nginx.
    Nginx,
    /// haproxy.
    Haproxy,
    /// Envoy with its router only.
    EnvoyRouter,
}

/// What the load speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// HTTP/1.1 in HBONE, to the proxy and from it.
    Hbone,
    /// HTTP/1.1.
    Http,
}

impl Contestant {
    /// All of them, in the tables' order.
    pub(super) const ALL: [Self; 11] = [
        Self::DirectHbone,
        Self::Ambit,
        Self::Envoy,
        Self::AmbitLog,
        Self::EnvoyLog,
        Self::AmbitRoutes,
        Self::EnvoyRoutes,
        Self::Direct,
        Self::Nginx,
        Self::Haproxy,
        Self::EnvoyRouter,
    ];

    /// What the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DirectHbone | Self::Direct => "none",
            Self::Ambit => "Ambit",
            Self::AmbitLog => "Ambit, access log",
            Self::Envoy => "Envoy",
            Self::EnvoyLog => "Envoy, access log",
            Self::AmbitRoutes => "Ambit, 1,000 routes",
            Self::EnvoyRoutes => "Envoy, 1,000 routes",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::EnvoyRouter => "Envoy, router only",
        }
    }

    pub(super) fn group(self) -> Group {
        match self {
            Self::DirectHbone
            | Self::Ambit
            | Self::AmbitLog
            | Self::AmbitRoutes
            | Self::Envoy
            | Self::EnvoyLog
            | Self::EnvoyRoutes => Group::Hbone,
            Self::Direct | Self::Nginx | Self::Haproxy | Self::EnvoyRouter => Group::Http,
        }
    }

    /// Nothing is between load and backend.
    pub(super) fn is_direct(self) -> bool {
        matches!(self, Self::DirectHbone | Self::Direct)
    }

    pub(super) fn is_ambit(self) -> bool {
        matches!(self, Self::Ambit | Self::AmbitLog | Self::AmbitRoutes)
    }

    pub(super) fn is_envoy(self) -> bool {
        matches!(
            self,
            Self::Envoy | Self::EnvoyLog | Self::EnvoyRoutes | Self::EnvoyRouter
        )
    }

    pub(super) fn writes_access_log(self) -> bool {
        matches!(self, Self::AmbitLog | Self::EnvoyLog)
    }

    /// How many routes there are; requests match the last one.
    pub(super) fn routes(self) -> usize {
        match self {
            Self::AmbitRoutes | Self::EnvoyRoutes => 1000,
            _ => 0,
        }
    }

    /// The rows that ours is compared with.
    pub(super) fn rivals(self) -> &'static [Self] {
        match self {
            Self::Ambit => &[Self::Envoy],
            Self::AmbitLog => &[Self::EnvoyLog],
            Self::AmbitRoutes => &[Self::EnvoyRoutes, Self::Ambit],
            _ => &[],
        }
    }
}
