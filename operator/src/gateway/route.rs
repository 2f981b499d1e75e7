//! Specification and status of routes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Desired state of a route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentRef>,
    /// Of `TLSRoute`: server names that it is for. Of others it is not used with Service parents.
    pub hostnames: Vec<String>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// What a route attaches to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group; absent: `gateway.networking.k8s.io`; empty: core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; absent: `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; absent: the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Of a Service: the name of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Of a Service: a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// Any of these; none: every request.
    pub matches: Vec<Match>,
    /// What is done with a request.
    pub filters: Vec<Filter>,
    /// Where it goes.
    pub backend_refs: Vec<BackendRef>,
    /// How long it may take.
    pub timeouts: Option<Timeouts>,
    /// How it is tried again.
    pub retry: Option<RouteRetry>,
    /// Not supported.
    pub session_persistence: Option<Value>,
}

/// All that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// Of `HTTPRoute`.
    pub path: Option<Typed>,
    /// A string of `HTTPRoute`, an object of `GRPCRoute`.
    pub method: Option<Method>,
    /// Headers.
    pub headers: Vec<Named>,
    /// Of `HTTPRoute`.
    pub query_params: Vec<Named>,
}

/// A method of HTTP or gRPC.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Method {
    /// Of HTTP.
    Http(String),
    /// Of gRPC.
    Grpc(GrpcMethod),
}

/// A method of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct GrpcMethod {
    /// `Exact` (default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// A value, and how it is compared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Typed {
    /// How.
    pub r#type: Option<String>,
    /// The value.
    pub value: Option<String>,
}

/// A header or query parameter: how it is compared with a value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// `Exact` (default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// The value.
    pub value: String,
}

/// A filter; the field of its type is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Its type.
    pub r#type: String,
    /// `RequestHeaderModifier`
    pub request_header_modifier: Option<HeaderModifier>,
    /// `ResponseHeaderModifier`
    pub response_header_modifier: Option<HeaderModifier>,
    /// `RequestMirror`
    pub request_mirror: Option<RequestMirror>,
    /// `RequestRedirect`
    pub request_redirect: Option<RequestRedirect>,
    /// `URLRewrite`
    pub url_rewrite: Option<UrlRewrite>,
    /// `CORS`
    pub cors: Option<CorsFilter>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Replaced or added.
    pub set: Vec<Header>,
    /// Added to those that are there.
    pub add: Vec<Header>,
    /// Removed.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Another backend that is sent a copy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    /// Where to.
    pub backend_ref: BackendRef,
    /// Of how many requests, in percent.
    pub percent: Option<i64>,
    /// Of how many requests.
    pub fraction: Option<Fraction>,
}

/// A part of a whole.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Fraction {
    /// So many.
    pub numerator: i64,
    /// Of so many; absent: of 100.
    pub denominator: Option<i64>,
}

/// A redirect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// `http` or `https`; absent: as the request has it.
    pub scheme: Option<String>,
    /// Absent: as the request has it.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The port.
    pub port: Option<i64>,
    /// Absent: 302.
    pub status_code: Option<i64>,
}

/// Changes of the request's target.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct UrlRewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// Change of a path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathRewrite {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    pub r#type: String,
    /// The path.
    pub replace_full_path: Option<String>,
    /// What replaces the prefix that matched.
    pub replace_prefix_match: Option<String>,
}

/// GEP-1767.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Origins that may ask.
    pub allow_origins: Vec<String>,
    /// Whether with credentials.
    pub allow_credentials: Option<bool>,
    /// With which methods.
    pub allow_methods: Vec<String>,
    /// With which headers.
    pub allow_headers: Vec<String>,
    /// Which headers of the response they may read.
    pub expose_headers: Vec<String>,
    /// For how long they may remember, in seconds.
    pub max_age: Option<i64>,
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct BackendRef {
    /// API group; absent or empty: core.
    pub group: Option<String>,
    /// Kind; absent: `Service`.
    pub kind: Option<String>,
    /// Namespace; absent: the route's.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port.
    pub port: Option<i64>,
    /// Its share; absent: 1.
    pub weight: Option<i64>,
    /// What is done with requests to it.
    pub filters: Vec<Filter>,
}

/// Durations (GEP-2257).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// Of a request.
    pub request: Option<String>,
    /// Of one try.
    pub backend_request: Option<String>,
}

/// GEP-1731.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteRetry {
    /// Statuses that are tried again.
    pub codes: Vec<i64>,
    /// How often.
    pub attempts: Option<i64>,
    /// The pause before, at least.
    pub backoff: Option<String>,
}

/// What controllers say of a route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteStatus {
    /// For each parent, by each controller.
    pub parents: Vec<RouteParentStatus>,
}

/// What a controller says of a route at one parent.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as the route names it. Of others it is kept as it is.
    pub parent_ref: Value,
    /// The controller.
    pub controller_name: String,
    /// What it says.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
