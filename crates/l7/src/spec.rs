//! The input: routes as their authors wrote them. The fields are those of the Gateway API (`HTTPRouteSpec`,
//! `GRPCRouteSpec`, `TCPRouteSpec` and `TLSRouteSpec`, v1); references to backends are resolved already.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod filters;

pub use filters::{
    CorsSpec, FilterSpec, Fraction, HeaderEditSpec, HeaderSpec, MirrorSpec, PathEditSpec, RedirectSpec,
    RewriteSpec,
};

/// The kind of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`: a failure is an HTTP status.
    HttpRoute,
    /// `GRPCRoute`: a failure is a gRPC status.
    GrpcRoute,
    /// `TCPRoute`: connections, whatever is said on them. A failure is their end.
    TcpRoute,
    /// `TLSRoute`: connections, by the server name that a TLS client asks for.
    TlsRoute,
}

impl RouteKind {
    /// As the API names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
        }
    }

    /// Whether it routes connections, not requests.
    pub const fn is_of_connections(self) -> bool {
        matches!(self, Self::TcpRoute | Self::TlsRoute)
    }
}

impl FromStr for RouteKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        let kinds = [Self::HttpRoute, Self::GrpcRoute, Self::TcpRoute, Self::TlsRoute];
        let mut kinds = kinds.into_iter();
        kinds.find(|kind| kind.name() == name).ok_or(UnknownKind)
    }
}

/// Not the name of a kind of route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of route")]
pub struct UnknownKind;

/// The name of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name.
    pub name: RouteName,
    /// Of a `TLSRoute`: server names that it is for, `*.` for a wildcard. None: all.
    pub hostnames: Vec<String>,
    /// Its rules, in the order in which they were written.
    pub rules: Vec<RuleSpec>,
}

/// One rule of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// `name`, for statuses, logs and `sectionName`.
    pub name: Option<String>,
    /// The rule matches if any of these matches. None at all match every request.
    pub matches: Vec<MatchSpec>,
    /// What is done to requests that match, whatever the backend.
    pub filters: FilterSpec,
    /// Cross-origin resource sharing.
    pub cors: Option<CorsSpec>,
    /// Timeouts.
    pub timeouts: TimeoutSpec,
    /// Retries; without it, the API asks for none.
    pub retry: Option<RetrySpec>,
    /// Where requests go. None at all, and no redirect: status 500.
    pub backends: Vec<BackendSpec>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchSpec {
    /// The path.
    pub path: PathMatch,
    /// The HTTP method.
    pub method: Option<String>,
    /// Request headers. Of entries with equal names (in any case) the first counts.
    pub headers: Vec<NamedMatch>,
    /// Query parameters. Of entries with equal names the first counts.
    pub query: Vec<NamedMatch>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Exactly this path.
    Exact(String),
    /// This path and all below it, segment by segment: `/abc` has `/abc/def` below it, and not `/abcd`. A slash at the
    /// end is ignored.
    Prefix(String),
    /// The whole path matches this regular expression.
    Regex(String),
    /// The `method` of a `GRPCRouteMatch`. A gRPC request has the path `/service/method`.
    Grpc {
        /// The full name of the service; any service if absent.
        service: Option<ValueMatch>,
        /// The method; any method if absent.
        method: Option<ValueMatch>,
    },
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// A condition on a value with a name: a header or a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMatch {
    /// The name.
    pub name: String,
    /// The condition on its value.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// The whole value matches this regular expression.
    Regex(String),
}

/// `HTTPRouteTimeouts`. Zero is no timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeoutSpec {
    /// For the whole request, with all its retries.
    pub request: Option<Duration>,
    /// For each attempt. Not longer than `request`.
    pub backend_request: Option<Duration>,
}

/// `HTTPRouteRetry`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetrySpec {
    /// Statuses that are retried, of 400 to 599. Connection errors always are.
    pub codes: Vec<u16>,
    /// How often a request is repeated at most; absent: 2.
    pub attempts: Option<u32>,
    /// The least time between two attempts; absent: 25 ms.
    pub backoff: Option<Duration>,
}

/// A backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSpec {
    /// The caller's identifier of the backend.
    pub id: String,
    /// Its port.
    pub port: u16,
    /// Its share is its weight, of the sum of weights. At most 1,000,000.
    pub weight: u32,
    /// Whether the reference is valid. An invalid backend keeps its share, and that share gets status 500.
    pub valid: bool,
    /// What is done to requests for this backend, after the rule's filters.
    pub filters: FilterSpec,
}

impl BackendSpec {
    /// A valid backend with the default weight, 1.
    pub fn new(id: impl Into<String>, port: u16) -> Self {
        Self {
            id: id.into(),
            port,
            weight: 1,
            valid: true,
            filters: FilterSpec::default(),
        }
    }
}
