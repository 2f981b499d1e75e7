//! Converts routes from the wire to the form that a waypoint compiles.

use std::time::Duration;

use ambit_l7::{
    BackendSpec, CorsSpec, FilterSpec, Fraction, HeaderEditSpec, HeaderSpec, MatchSpec, MirrorSpec,
    NamedMatch, PathEditSpec, PathMatch, RedirectSpec, RetrySpec, RewriteSpec, RouteName, RouteSpec,
    RuleSpec, TimeoutSpec, ValueMatch,
};

use crate::{features, waypoint as wire};

/// Why a route was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A kind of a later version.
    #[error("{0:?} is not a kind of route that this version has")]
    Kind(String),
    /// A match without a condition that this version knows.
    #[error("rules[{rule}]: {field} has a match of a kind that this version does not have")]
    Match {
        /// The place of the rule.
        rule: usize,
        /// The field.
        field: &'static str,
    },
    /// A number that is out of range.
    #[error("rules[{rule}]: {field} is out of range")]
    Range {
        /// The place of the rule.
        rule: usize,
        /// The field.
        field: &'static str,
    },
    /// It requires a feature of a later version.
    #[error("it requires {0:?}, which this version does not have")]
    Requires(String),
}

/// A route. What can be wrong with its values is found when it is compiled, rule by rule.
///
/// # Errors
/// What this version does not have.
pub fn spec(from: wire::Route) -> Result<RouteSpec, RouteError> {
    if let Some(feature) = features::missing(&from.requires) {
        return Err(RouteError::Requires(feature.to_owned()));
    }
    let Ok(kind) = from.kind.parse() else {
        return Err(RouteError::Kind(from.kind));
    };
    let rules = from.rules.into_iter().enumerate();
    Ok(RouteSpec {
        name: RouteName {
            kind,
            namespace: from.namespace,
            name: from.name,
        },
        hostnames: from.hostnames,
        rules: rules
            .map(|(place, from)| Rule(place).convert(from))
            .collect::<Result<_, _>>()?,
    })
}

/// The place of the rule that is converted.
#[derive(Clone, Copy)]
struct Rule(usize);

impl Rule {
    fn out_of_range(self, field: &'static str) -> RouteError {
        RouteError::Range { rule: self.0, field }
    }

    fn unknown(self, field: &'static str) -> RouteError {
        RouteError::Match { rule: self.0, field }
    }

    fn convert(self, from: wire::RouteRule) -> Result<RuleSpec, RouteError> {
        let mut spec = RuleSpec {
            name: some(from.name),
            matches: all(from.matches, |m| self.matching(m))?,
            ..RuleSpec::default()
        };
        // Without a backend, requests get 500.
        if !from.invalid.is_empty() {
            return Ok(spec);
        }
        spec.filters = self.filters(from.filters.unwrap_or_default())?;
        spec.cors = from.cors.map(cors);
        spec.timeouts = TimeoutSpec {
            request: self.duration(from.timeout, "timeout")?,
            backend_request: self.duration(from.backend_timeout, "backend_timeout")?,
        };
        spec.retry = from.retry.map(|retry| self.retry(retry)).transpose()?;
        spec.backends = all(from.backends, |backend| self.backend(backend))?;
        Ok(spec)
    }

    fn matching(self, from: wire::RouteMatch) -> Result<MatchSpec, RouteError> {
        use wire::path_match::Match;
        let path = match (from.grpc, from.path) {
            (Some(grpc), _) => grpc_path(grpc),
            (None, None) => PathMatch::default(),
            (None, Some(path)) => match path.r#match.ok_or_else(|| self.unknown("path"))? {
                Match::Exact(path) => PathMatch::Exact(path),
                Match::Prefix(path) => PathMatch::Prefix(path),
                Match::Regex(path) => PathMatch::Regex(path),
            },
        };
        Ok(MatchSpec {
            path,
            method: some(from.method),
            headers: all(from.headers, |value| self.named(value, "headers"))?,
            query: all(from.query, |value| self.named(value, "query"))?,
        })
    }

    fn named(self, from: wire::ValueMatch, field: &'static str) -> Result<NamedMatch, RouteError> {
        use wire::value_match::Match;
        Ok(NamedMatch {
            name: from.name,
            value: match from.r#match.ok_or_else(|| self.unknown(field))? {
                Match::Exact(value) => ValueMatch::Exact(value),
                Match::Regex(value) => ValueMatch::Regex(value),
            },
        })
    }

    fn filters(self, from: wire::RouteFilters) -> Result<FilterSpec, RouteError> {
        Ok(FilterSpec {
            request_headers: headers(from.request_headers.unwrap_or_default()),
            response_headers: headers(from.response_headers.unwrap_or_default()),
            rewrite: from.rewrite.map(|from| self.rewrite(from)).transpose()?,
            redirect: from.redirect.map(|from| self.redirect(from)).transpose()?,
            mirrors: all(from.mirrors, |mirror| {
                Ok(MirrorSpec {
                    port: self.short(mirror.port, "mirrors")?,
                    id: mirror.backend,
                    fraction: Fraction {
                        numerator: mirror.numerator,
                        denominator: mirror.denominator,
                    },
                })
            })?,
        })
    }

    fn rewrite(self, from: wire::Rewrite) -> Result<RewriteSpec, RouteError> {
        Ok(RewriteSpec {
            hostname: some(from.hostname),
            path: from.path.map(|path| self.path_edit(path)).transpose()?,
        })
    }

    fn path_edit(self, from: wire::PathModifier) -> Result<PathEditSpec, RouteError> {
        use wire::path_modifier::Kind;
        Ok(match from.kind.ok_or_else(|| self.unknown("path"))? {
            Kind::Full(path) => PathEditSpec::Full(path),
            Kind::Prefix(path) => PathEditSpec::Prefix(path),
        })
    }

    fn redirect(self, from: wire::Redirect) -> Result<RedirectSpec, RouteError> {
        Ok(RedirectSpec {
            scheme: some(from.scheme),
            hostname: some(from.hostname),
            port: Some(self.short(from.port, "redirect.port")?).filter(|port| *port != 0),
            path: from.path.map(|path| self.path_edit(path)).transpose()?,
            status: Some(self.short(from.status, "redirect.status")?).filter(|status| *status != 0),
        })
    }

    fn retry(self, from: wire::RouteRetry) -> Result<RetrySpec, RouteError> {
        Ok(RetrySpec {
            codes: all(from.codes, |code| self.short(code, "retry.codes"))?,
            attempts: from.attempts,
            backoff: self.duration(from.backoff, "retry.backoff")?,
        })
    }

    fn backend(self, from: wire::RouteBackend) -> Result<BackendSpec, RouteError> {
        Ok(BackendSpec {
            port: self.short(from.port, "backends")?,
            valid: from.invalid.is_empty(),
            id: from.backend,
            weight: from.weight,
            filters: self.filters(from.filters.unwrap_or_default())?,
        })
    }

    /// A number of 16 bits.
    fn short(self, number: u32, field: &'static str) -> Result<u16, RouteError> {
        u16::try_from(number).map_err(|_| self.out_of_range(field))
    }

    fn duration(
        self,
        from: Option<prost_types::Duration>,
        field: &'static str,
    ) -> Result<Option<Duration>, RouteError> {
        let duration = from.map(Duration::try_from).transpose();
        duration.map_err(|_| self.out_of_range(field))
    }
}

fn all<A, B>(from: Vec<A>, convert: impl FnMut(A) -> Result<B, RouteError>) -> Result<Vec<B>, RouteError> {
    from.into_iter().map(convert).collect()
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn grpc_path(from: wire::GrpcMethodMatch) -> PathMatch {
    let value = |text: String| {
        let regex = from.regex;
        some(text).map(|text| match regex {
            true => ValueMatch::Regex(text),
            false => ValueMatch::Exact(text),
        })
    };
    let (service, method) = (value(from.service), value(from.method));
    match (&service, &method) {
        (None, None) => PathMatch::default(),
        _ => PathMatch::Grpc { service, method },
    }
}

fn headers(from: wire::HeaderEdit) -> HeaderEditSpec {
    let values = |from: Vec<wire::HeaderValue>| {
        let values = from.into_iter().map(|header| HeaderSpec {
            name: header.name,
            value: header.value,
        });
        values.collect()
    };
    HeaderEditSpec {
        set: values(from.set),
        add: values(from.add),
        remove: from.remove,
    }
}

fn cors(from: wire::Cors) -> CorsSpec {
    CorsSpec {
        allow_origins: from.allow_origins,
        allow_credentials: from.allow_credentials,
        allow_methods: from.allow_methods,
        allow_headers: from.allow_headers,
        expose_headers: from.expose_headers,
        max_age: from.max_age_seconds,
    }
}
