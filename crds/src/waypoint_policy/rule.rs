//! L7 authorization rules.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{Action, Mode};

/// Which requests pass, or do not. In each list that is present, one element must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("[has(self.from) && size(self.from) > 0, has(self.methods) && size(self.methods) > 0, has(self.paths) && size(self.paths) > 0, has(self.hosts) && size(self.hosts) > 0, has(self.headers) && size(self.headers) > 0].exists(given, given)")
        .message("a rule needs one of from, methods, paths, hosts, headers: for every request, write paths: [{prefix: /}]")
)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Name of the rule, unique in the policy: logs, metrics and the header x-ambit-reason name it, as
    /// `namespace/policy/rule`.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// Allow: a request that matches may pass; a request that matches no Allow rule is denied. Deny: a request that
    /// matches is denied, whatever Allow rules exist.
    pub action: Action,

    /// Enforce: the rule decides. Audit: the rule decides nothing; requests that it would deny are counted and logged.
    /// Defaults to Enforce.
    #[serde(default)]
    pub mode: Mode,

    /// Callers; one entry must match. If absent, every caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub from: Vec<HttpSource>,

    /// Methods, in upper case: GET, DELETE. If absent, every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 32), regex(pattern = r"^[A-Z][-A-Z_]*$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<String>,

    /// Paths, without the query. They are compared after normalization, as docs/http-rules.md describes: `//`, `/./`,
    /// `/../` and unneeded percent-encoding do not evade a rule. Case matters. If absent, every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub paths: Vec<PathMatch>,

    /// Names to which the request is addressed (Host or :authority), without a port; case does not matter. A `*.` at
    /// the beginning matches one or more labels. If absent, every name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub hosts: Vec<String>,

    /// Headers, as the application receives them: header fields that the request's Connection header removes are not
    /// seen. All entries must match. If absent, any headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderMatch>,
}

/// Callers. In each list that is present, one element must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.principals) && size(self.principals) > 0) || (has(self.namespaces) && size(self.namespaces) > 0)")
        .message("an entry of 'from' needs one of principals, namespaces"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Identities, as `<trust domain>/ns/<namespace>/sa/<service account>`, without `spiffe://`:
    /// cluster.local/ns/shop/sa/cart. A `*` at the beginning or the end matches any text: cluster.local/ns/shop/*,
    /// */sa/cart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 320)))]
    #[x_kube(
        validation = Rule::new("self.all(p, !p.contains('://'))")
            .message("principals are written without a scheme: cluster.local/ns/<namespace>/sa/<service account>, not spiffe://…"),
        validation = Rule::new("self.all(p, p.split('*').size() <= 2 && (!p.contains('*') || p.startsWith('*') || p.endsWith('*')))")
            .message("principals take one '*', as the first or the last character"),
        validation = Rule::new("self.all(p, p.contains('*') || p.contains('://') || (p.split('/').size() == 5 && p.contains('/ns/') && p.contains('/sa/') && !p.contains('//')))")
            .message("principals without '*' are <trust domain>/ns/<namespace>/sa/<service account>")
    )]
    pub principals: Vec<String>,

    /// Namespaces of callers. A `*` at the beginning or the end matches any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^([*]?[-a-z0-9]+|[-a-z0-9]+[*]|[*])$'))")
        .message("namespaces are names of namespaces; they take one '*', as the first or the last character"))]
    pub namespaces: Vec<String>,
}

/// A path: equal to `exact`, or at or below `prefix`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.exact) != has(self.prefix)").message("a path needs exact or prefix, one of them")
)]
#[serde(rename_all = "camelCase")]
pub struct PathMatch {
    /// The whole path: /orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.matches('//|/[.][.]?(/|$)|[?#;%\\\\\\\\*]|[[:cntrl:]]')")
        .message("paths begin with '/' and are written in normal form: without //, /./, /../, and none of ? # ; % \\ *"))]
    pub exact: Option<String>,

    /// The beginning of the path, by whole segments: /orders matches /orders and /orders/7, and not /orders-old. `/`
    /// matches every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.matches('//|/[.][.]?(/|$)|[?#;%\\\\\\\\*]|[[:cntrl:]]')")
        .message("paths begin with '/' and are written in normal form: without //, /./, /../, and none of ? # ; % \\ *"))]
    pub prefix: Option<String>,
}

/// A header of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header; case does not matter.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$")
    )]
    pub name: String,
    /// Values, one of which the header must have; case matters. A `*` at the beginning or the end matches any text. If
    /// the header occurs several times, Allow needs one of the values in each occurrence, Deny in any. A list, as in
    /// `a, b`, is one value and is compared as a whole. If absent, the header must be present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(v, v.split('*').size() <= 2 && (!v.contains('*') || v.startsWith('*') || v.endsWith('*')))")
        .message("values take one '*', as the first or the last character"))]
    pub values: Vec<String>,
}
