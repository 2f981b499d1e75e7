//! The input: routes as their authors wrote them. The fields are those of the Gateway API (`HTTPRouteSpec` and
//! `GRPCRouteSpec`, v1); references to backends are resolved already.

use std::fmt;
use std::time::Duration;

/// The kind of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`: a failure is an HTTP status.
    HttpRoute,
    /// `GRPCRoute`: a failure is a gRPC status.
    GrpcRoute,
}

/// The name of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::HttpRoute => "HTTPRoute",
            RouteKind::GrpcRoute => "GRPCRoute",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name.
    pub name: RouteName,
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

/// The filters that a rule and each of its backends may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterSpec {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderEditSpec,
    /// `ResponseHeaderModifier`.
    pub response_headers: HeaderEditSpec,
    /// `URLRewrite`.
    pub rewrite: Option<RewriteSpec>,
    /// `RequestRedirect`. Excludes `rewrite`; on a rule it also excludes backends.
    pub redirect: Option<RedirectSpec>,
    /// `RequestMirror`, of which there may be several.
    pub mirrors: Vec<MirrorSpec>,
}

/// A header with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// `HTTPHeaderFilter`: at most one of the three actions for a name. Of entries of one list with equal names (in any
/// case) the first counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEditSpec {
    /// These headers replace what there is.
    pub set: Vec<HeaderSpec>,
    /// These headers come in addition to what there is.
    pub add: Vec<HeaderSpec>,
    /// Headers with these names are removed.
    pub remove: Vec<String>,
}

/// `HTTPURLRewriteFilter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RewriteSpec {
    /// The new `Host`.
    pub hostname: Option<String>,
    /// The change of the path.
    pub path: Option<PathEditSpec>,
}

/// `HTTPPathModifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEditSpec {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`: the rule must have exactly one match, with a [`PathMatch::Prefix`].
    Prefix(String),
}

/// `HTTPRequestRedirectFilter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectSpec {
    /// `http` or `https`; absent: as requested.
    pub scheme: Option<String>,
    /// Absent: as requested.
    pub hostname: Option<String>,
    /// Absent: the default port of `scheme`, or without one the port of the frontend.
    pub port: Option<u16>,
    /// Absent: as requested.
    pub path: Option<PathEditSpec>,
    /// 301, 302, 303, 307 or 308; absent: 302.
    pub status: Option<u16>,
}

/// `HTTPRequestMirrorFilter`. A mirror whose backend is invalid is left out by the caller, as the API asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSpec {
    /// The caller's identifier of the backend.
    pub id: String,
    /// Its port.
    pub port: u16,
    /// The part of all requests that is mirrored.
    pub fraction: Fraction,
}

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// At most the denominator.
    pub numerator: u32,
    /// Not zero.
    pub denominator: u32,
}

impl Fraction {
    /// The whole.
    pub const ALL: Self = Self::percent(100);

    /// So many percent.
    pub const fn percent(percent: u32) -> Self {
        Self {
            numerator: percent,
            denominator: 100,
        }
    }
}

/// `HTTPCORSFilter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsSpec {
    /// `*` alone, or origins whose host may begin with `*.` or be `*`.
    pub allow_origins: Vec<String>,
    /// Whether requests may have credentials.
    pub allow_credentials: bool,
    /// `*` alone, or methods.
    pub allow_methods: Vec<String>,
    /// `*` alone, or names of headers.
    pub allow_headers: Vec<String>,
    /// `*` alone, or names of headers.
    pub expose_headers: Vec<String>,
    /// Seconds for which a client may cache a preflight's response; absent: 5.
    pub max_age: Option<u32>,
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
