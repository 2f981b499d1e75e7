//! Authorization of HTTP requests.
//!
//! [`evaluate`] decides in the same order as for connections: an enforced `Deny` rule that matches denies. Otherwise,
//! where enforced `Allow` rules apply, one of them must match. Otherwise the request is allowed. A rule matches when
//! each of its fields that has values matches. A non-HTTP connection has no [`Attributes`]: an `Allow` rule that
//! requires some does not match it, and a `Deny` rule that requires some matches it if the callers match.

mod decide;
mod host;
mod path;

use serde::Serialize;

use crate::matching::StringMatch;
use crate::set::Action;

pub use decide::evaluate;
pub use host::normalize_host;
pub use path::{PathRefusal, normalize_path, readings};

/// One rule. A rule without any value matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// `namespace/policy/rule`.
    pub name: String,
    /// The action when the rule matches.
    pub action: Action,
    /// Report only: the rule never decides.
    pub audit: bool,
    /// Callers, one of which must match; empty: every caller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
    /// Methods; empty: every method. `Allow` compares them with case, `Deny` without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths; empty: every path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathMatch>,
    /// Hosts that the request is addressed to; empty: every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostMatch>,
    /// Headers, all of which must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// Callers. One value of each non-empty list must match. Without any value it matches no caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Principals: `<trust domain>/ns/<namespace>/sa/<service account>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    /// Namespaces of principals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
}

/// A path. It is compared with the path as an application may see it ([`readings`]), with the percent-encoding that is
/// left decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// Equal. `Deny` also matches the path with a slash at the end, as most applications read both alike.
    Exact(String),
    /// This path, or a path below it, by whole segments: `/orders` and `/orders/` match `/orders`, `/orders/` and
    /// `/orders/7`, but not `/orders-old` (like PathPrefix of the Gateway API). `/` matches every path.
    Prefix(String),
}

/// The host that a request is addressed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum HostMatch {
    /// Equal.
    Exact(String),
    /// Ends with this suffix, after at least one more character. The suffix begins with a dot.
    Suffix(String),
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The name, in lower case.
    pub name: String,
    /// One of them must match a field of that name; empty: the header must be present. If the header is repeated,
    /// `Allow` requires a match for each field, `Deny` for one. A field is one value: lists in it are not split.
    /// `Presence` matches an empty value, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<StringMatch>,
}

/// Attributes of a request, or of a non-HTTP connection.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    /// The caller's authenticated principal, without a scheme.
    pub principal: Option<&'a str>,
    /// Attributes from HTTP; `None` for a non-HTTP connection.
    pub attributes: Option<Attributes<'a>>,
}

/// Attributes of a request that come from HTTP.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// The method, as received.
    pub method: &'a str,
    /// The path without the query, in one of its [`readings`].
    pub path: &'a str,
    /// The host that the request is addressed to, as [`normalize_host`] returns it.
    pub host: &'a str,
    /// The headers, as they are sent to the application.
    pub headers: &'a dyn Headers,
}

/// Lookup of header fields.
pub trait Headers {
    /// Whether `matches` is true for the value of one of the fields of that name (in lower case).
    fn any(&self, name: &str, matches: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The same for fields whose name has `_` in place of `-`. CGI and similar interfaces read both names as one.
    fn any_alike(&self, _name: &str, _matches: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

impl HttpRule {
    /// Whether the rule requires any attribute that only HTTP has.
    pub fn needs_http(&self) -> bool {
        !(self.methods.is_empty()
            && self.paths.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty())
    }
}

#[cfg(test)]
mod tests;
