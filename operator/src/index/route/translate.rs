//! Rules of routes, from the API's form to the waypoint's.

use ambit_crds::parse_duration;
use ambit_wire::waypoint as wire;

use crate::gateway::{
    BackendRef, CorsFilter, Filter, GrpcMethod, HeaderModifier, Match, Method, Named, PathRewrite,
    RequestMirror, RequestRedirect, RouteRetry, Rule, Typed, UrlRewrite,
};

/// An error names the field and the reason.
type Result<T> = std::result::Result<T, String>;

/// Resolves references to backends.
pub(super) trait References {
    /// The Backend and port that a reference in `field` is to; or why it is not valid.
    fn backend(&mut self, reference: &BackendRef, field: &str) -> Result<(String, u32)>;
}

/// A rule. One that cannot be honoured says why; requests that match it are not to fall through to others.
pub(super) fn rule(rule: &Rule, place: usize, references: &mut impl References) -> wire::RouteRule {
    let translated = understood(rule, &format!("spec.rules[{place}]"), references);
    translated.unwrap_or_else(|error| wire::RouteRule {
        matches: matches_of_invalid(rule),
        invalid: error,
        ..wire::RouteRule::default()
    })
}

fn understood(rule: &Rule, field: &str, references: &mut impl References) -> Result<wire::RouteRule> {
    if rule.session_persistence.is_some() {
        return Err(format!("{field}.sessionPersistence is not supported"));
    }
    let matches = rule.matches.iter().enumerate();
    let matches = matches.map(|(n, m)| matching(m, &format!("{field}.matches[{n}]")));
    let mut translated = wire::RouteRule {
        name: rule.name.clone().unwrap_or_default(),
        matches: matches.collect::<Result<_>>()?,
        ..wire::RouteRule::default()
    };
    let (filters, cors) = filters(&rule.filters, field, references)?;
    (translated.filters, translated.cors) = (Some(filters), cors);
    if let Some(timeouts) = &rule.timeouts {
        let read = |text: &Option<String>, name: &str| duration(text, &format!("{field}.timeouts.{name}"));
        translated.timeout = read(&timeouts.request, "request")?;
        translated.backend_timeout = read(&timeouts.backend_request, "backendRequest")?;
    }
    let retried = rule.retry.as_ref();
    translated.retry = retried.map(|r| retry(r, &format!("{field}.retry"))).transpose()?;
    for (n, reference) in rule.backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{n}]");
        translated.backends.push(backend(reference, &field, references)?);
    }
    Ok(translated)
}

fn filters(
    from: &[Filter],
    field: &str,
    references: &mut impl References,
) -> Result<(wire::RouteFilters, Option<wire::Cors>)> {
    let (mut found, mut crossing) = (wire::RouteFilters::default(), None);
    for (n, filter) in from.iter().enumerate() {
        let field = format!("{field}.filters[{n}]");
        match filter.r#type.as_str() {
            "RequestHeaderModifier" => {
                found.request_headers = filter.request_header_modifier.as_ref().map(headers);
            }
            "ResponseHeaderModifier" => {
                found.response_headers = filter.response_header_modifier.as_ref().map(headers);
            }
            "RequestRedirect" => {
                let redirected = filter.request_redirect.as_ref();
                found.redirect = redirected.map(|r| redirect(r, &field)).transpose()?;
            }
            "URLRewrite" => {
                let rewritten = filter.url_rewrite.as_ref();
                found.rewrite = rewritten.map(|r| rewrite(r, &field)).transpose()?;
            }
            "RequestMirror" => {
                let mirrored = filter.request_mirror.as_ref();
                let field = format!("{field}.requestMirror.backendRef");
                // One that is not valid is left out (HTTPRequestMirrorFilter).
                let to = mirrored.and_then(|m| Some((m, references.backend(&m.backend_ref, &field).ok()?)));
                found
                    .mirrors
                    .extend(to.map(|(m, (backend, port))| mirror(m, backend, port)));
            }
            "CORS" => crossing = filter.cors.as_ref().map(cors),
            other => return Err(format!("{field}: type {other:?} is not supported")),
        }
    }
    Ok((found, crossing))
}

/// A mirror to this Backend.
fn mirror(from: &RequestMirror, backend: String, port: u32) -> wire::Mirror {
    let count = |n: i64| u32::try_from(n).unwrap_or_default();
    let (numerator, denominator) = match (&from.fraction, from.percent) {
        (Some(fraction), _) => (
            count(fraction.numerator),
            count(fraction.denominator.unwrap_or(100)),
        ),
        (None, percent) => (count(percent.unwrap_or(100)), 100),
    };
    wire::Mirror {
        backend,
        port,
        numerator,
        denominator,
    }
}

fn backend(from: &BackendRef, field: &str, references: &mut impl References) -> Result<wire::RouteBackend> {
    let weight = u32::try_from(from.weight.unwrap_or(1));
    let (filters, crossing) = filters(&from.filters, field, references)?;
    if crossing.is_some() {
        return Err(format!("{field}.filters: CORS is not supported for one backend"));
    }
    let mut backend = wire::RouteBackend {
        weight: weight.map_err(|_| format!("{field}.weight: out of range"))?,
        filters: Some(filters),
        ..wire::RouteBackend::default()
    };
    match references.backend(from, field) {
        Ok((name, port)) => (backend.backend, backend.port) = (name, port),
        Err(error) => backend.invalid = error,
    }
    Ok(backend)
}

/// The matches of a rule that cannot be honoured, as far as they can be understood. Others match nothing.
fn matches_of_invalid(rule: &Rule) -> Vec<wire::RouteMatch> {
    let matches = rule.matches.iter();
    matches
        .map(|m| matching(m, "").unwrap_or_else(|_| nothing()))
        .collect()
}

/// A match of the empty path, which no request has.
fn nothing() -> wire::RouteMatch {
    wire::RouteMatch {
        path: Some(wire::PathMatch {
            r#match: Some(wire::path_match::Match::Exact(String::new())),
        }),
        ..wire::RouteMatch::default()
    }
}

fn matching(from: &Match, field: &str) -> Result<wire::RouteMatch> {
    let path = from.path.as_ref().map(|p| path(p, &format!("{field}.path")));
    let (method, grpc) = match &from.method {
        None => (String::new(), None),
        Some(Method::Http(method)) => (method.clone(), None),
        Some(Method::Grpc(method)) => (String::new(), Some(grpc(method, &format!("{field}.method"))?)),
    };
    let values = |from: &[Named], what: &str| -> Result<Vec<wire::ValueMatch>> {
        let all = from.iter().enumerate();
        all.map(|(n, named)| value(named, &format!("{field}.{what}[{n}]")))
            .collect()
    };
    Ok(wire::RouteMatch {
        path: path.transpose()?,
        method,
        headers: values(&from.headers, "headers")?,
        query: values(&from.query_params, "queryParams")?,
        grpc,
    })
}

fn path(from: &Typed, field: &str) -> Result<wire::PathMatch> {
    use wire::path_match::Match;
    let value = from.value.clone().unwrap_or_else(|| "/".to_owned());
    let matching = match from.r#type.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Match::Exact(value),
        "PathPrefix" => Match::Prefix(value),
        "RegularExpression" => Match::Regex(value),
        other => return Err(format!("{field}.type: {other:?} is not supported")),
    };
    Ok(wire::PathMatch {
        r#match: Some(matching),
    })
}

fn value(from: &Named, field: &str) -> Result<wire::ValueMatch> {
    use wire::value_match::Match;
    let value = from.value.clone();
    let matching = match from.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => Match::Exact(value),
        "RegularExpression" => Match::Regex(value),
        other => return Err(format!("{field}.type: {other:?} is not supported")),
    };
    Ok(wire::ValueMatch {
        name: from.name.clone(),
        r#match: Some(matching),
    })
}

fn grpc(from: &GrpcMethod, field: &str) -> Result<wire::GrpcMethodMatch> {
    let regex = match from.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => false,
        "RegularExpression" => true,
        other => return Err(format!("{field}.type: {other:?} is not supported")),
    };
    Ok(wire::GrpcMethodMatch {
        service: from.service.clone().unwrap_or_default(),
        method: from.method.clone().unwrap_or_default(),
        regex,
    })
}

fn headers(from: &HeaderModifier) -> wire::HeaderEdit {
    let values = |headers: &[crate::gateway::Header]| {
        let values = headers.iter().map(|h| wire::HeaderValue {
            name: h.name.clone(),
            value: h.value.clone(),
        });
        values.collect()
    };
    wire::HeaderEdit {
        set: values(&from.set),
        add: values(&from.add),
        remove: from.remove.clone(),
    }
}

fn rewrite(from: &UrlRewrite, field: &str) -> Result<wire::Rewrite> {
    let path = from
        .path
        .as_ref()
        .map(|p| modifier(p, &format!("{field}.urlRewrite.path")));
    Ok(wire::Rewrite {
        hostname: from.hostname.clone().unwrap_or_default(),
        path: path.transpose()?,
    })
}

fn modifier(from: &PathRewrite, field: &str) -> Result<wire::PathModifier> {
    use wire::path_modifier::Kind;
    let kind = match from.r#type.as_str() {
        "ReplaceFullPath" => from.replace_full_path.clone().map(Kind::Full),
        "ReplacePrefixMatch" => from.replace_prefix_match.clone().map(Kind::Prefix),
        other => return Err(format!("{field}.type: {other:?} is not supported")),
    };
    Ok(wire::PathModifier { kind })
}

fn redirect(from: &RequestRedirect, field: &str) -> Result<wire::Redirect> {
    let field = format!("{field}.requestRedirect");
    let number = |n: Option<i64>, name: &str| {
        u32::try_from(n.unwrap_or_default()).map_err(|_| format!("{field}.{name}: out of range"))
    };
    let path = from.path.as_ref().map(|p| modifier(p, &format!("{field}.path")));
    Ok(wire::Redirect {
        scheme: from.scheme.clone().unwrap_or_default(),
        hostname: from.hostname.clone().unwrap_or_default(),
        port: number(from.port, "port")?,
        path: path.transpose()?,
        status: number(from.status_code, "statusCode")?,
    })
}

fn cors(from: &CorsFilter) -> wire::Cors {
    wire::Cors {
        allow_origins: from.allow_origins.clone(),
        allow_credentials: from.allow_credentials.unwrap_or_default(),
        allow_methods: from.allow_methods.clone(),
        allow_headers: from.allow_headers.clone(),
        expose_headers: from.expose_headers.clone(),
        max_age_seconds: from.max_age.and_then(|age| u32::try_from(age).ok()),
    }
}

fn retry(from: &RouteRetry, field: &str) -> Result<wire::RouteRetry> {
    let number = |n: i64, name: &str| u32::try_from(n).map_err(|_| format!("{field}.{name}: out of range"));
    Ok(wire::RouteRetry {
        codes: from
            .codes
            .iter()
            .map(|code| number(*code, "codes"))
            .collect::<Result<_>>()?,
        attempts: from.attempts.map(|n| number(n, "attempts")).transpose()?,
        backoff: duration(&from.backoff, &format!("{field}.backoff"))?,
    })
}

fn duration(text: &Option<String>, field: &str) -> Result<Option<prost_types::Duration>> {
    let Some(text) = text else { return Ok(None) };
    let parsed = parse_duration(text).map_err(|error| format!("{field}: {error}"))?;
    let duration = prost_types::Duration::try_from(parsed).map_err(|error| format!("{field}: {error}"))?;
    Ok(Some(duration))
}
