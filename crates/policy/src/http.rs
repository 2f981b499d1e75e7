//! Who may make which HTTP request.
//!
//! [`evaluate`] decides as connections are decided on: an enforced `Deny` rule that matches denies; else, where enforced `Allow`
//! rules apply, one of them must match; else the request may pass. A rule matches when each of its fields that has values does. A
//! connection that is no HTTP has no [`Attributes`]: no `Allow` rule that asks for any matches it, and every `Deny` rule that asks
//! for some does if its callers do.

mod decide;
mod host;
mod path;

use serde::Serialize;

use crate::matching::StringMatch;
use crate::set::Action;

pub use decide::evaluate;
pub use host::normalize_host;
pub use path::{PathRefusal, normalize_path, readings};

/// One rule. One that has no values at all matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// `namespace/policy/rule`.
    pub name: String,
    /// What a match means.
    pub action: Action,
    /// Report only: it never decides.
    pub audit: bool,
    /// Callers, one of which must match; none: every caller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
    /// Methods; none: every one. `Allow` takes them as they are written here, `Deny` whatever their case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths; none: every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathMatch>,
    /// Names the request is addressed to; none: every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostMatch>,
    /// Headers, all of which must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// Callers. Of each list that has values one must match; without any value it matches nobody.
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

/// A path. It is compared with the path as an application may see it ([`readings`]), with the percent-encoding that is left decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// Equal. `Deny` takes it with a slash at its end, too, as most applications do.
    Exact(String),
    /// This path, or one below it, by whole segments: `/orders` and `/orders/` are `/orders`, `/orders/` and `/orders/7`, and not
    /// `/orders-old` (as the Gateway API's PathPrefix). `/` is every path.
    Prefix(String),
}

/// The name that a request is addressed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum HostMatch {
    /// Equal.
    Exact(String),
    /// Ends with this, which begins with a dot, after at least one more character.
    Suffix(String),
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// In lower case.
    pub name: String,
    /// One of them must match a field of that name; none: the header is there. Where there are several such fields, `Allow` wants a match
    /// for each of them, `Deny` for one. A field is one value: lists in it are not taken apart. `Presence` takes an empty value too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<StringMatch>,
}

/// What is known of a request, or of a connection that is no HTTP.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    /// The caller's authenticated principal, without a scheme.
    pub principal: Option<&'a str>,
    /// What HTTP adds; `None` for a connection that is no HTTP.
    pub attributes: Option<Attributes<'a>>,
}

/// What HTTP says of a request.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// The method, as it came.
    pub method: &'a str,
    /// The path without the query, in one of its [`readings`].
    pub path: &'a str,
    /// The name the request is addressed to, as [`normalize_host`] gives it.
    pub host: &'a str,
    /// The headers, as the application is to be sent them.
    pub headers: &'a dyn Headers,
}

/// Looks header fields up.
pub trait Headers {
    /// Whether `matches` is true for the value of one of the fields of that name (in lower case).
    fn any(&self, name: &str, matches: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The same for fields whose name has `_` where that one has `-`. CGI, and what follows it, reads both names as one.
    fn any_alike(&self, _name: &str, _matches: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

impl HttpRule {
    /// Whether it asks for anything that only HTTP knows.
    pub fn needs_http(&self) -> bool {
        !(self.methods.is_empty()
            && self.paths.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty())
    }
}

#[cfg(test)]
mod tests;
