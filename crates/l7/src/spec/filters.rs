//! Filters of rules and backends (`HTTPRouteFilter`).

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
    /// `ReplacePrefixMatch`: the rule must have exactly one match, with a
    /// [`PathMatch::Prefix`](crate::PathMatch::Prefix).
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
