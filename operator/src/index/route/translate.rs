//! Rules of routes, from the API's form to the waypoint's.

use ambit_crds::parse_duration;
use ambit_wire::waypoint as wire;

use crate::gateway::{
    BackendRef, CorsFilter, Filter, GrpcMethod, HeaderModifier, Match, Method, Named, PathRewrite,
    RequestMirror, RequestRedirect, RouteRetry, Rule, Typed, UrlRewrite,
};

/// An error names the field and the reason.
type Result<T> = std::result::Result<T, String>;

/// Tries after the first, where a retry does not say how many.
const ATTEMPTS: u32 = 1;
/// The pause before a retry grows up to this many times the first one.
const LONGEST_PAUSE: u32 = 10;

/// A rule without its backends and mirrors.
pub(super) fn rule(rule: &Rule, field: &str) -> Result<wire::RouteRule> {
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
    for (n, filter) in rule.filters.iter().enumerate() {
        let field = format!("{field}.filters[{n}]");
        match filter.r#type.as_str() {
            "RequestHeaderModifier" => {
                translated.request_headers = filter.request_header_modifier.as_ref().map(headers);
            }
            "ResponseHeaderModifier" => {
                translated.response_headers = filter.response_header_modifier.as_ref().map(headers);
            }
            "RequestRedirect" => {
                let redirected = filter.request_redirect.as_ref();
                translated.redirect = redirected.map(|r| redirect(r, &field)).transpose()?;
            }
            "URLRewrite" => {
                let rewritten = filter.url_rewrite.as_ref();
                translated.rewrite = rewritten.map(|r| rewrite(r, &field)).transpose()?;
            }
            "CORS" => translated.cors = filter.cors.as_ref().map(cors),
            "RequestMirror" => {}
            other => return Err(format!("{field}: type {other:?} is not supported")),
        }
    }
    if translated.redirect.is_some() && translated.rewrite.is_some() {
        return Err(format!(
            "{field}.filters: RequestRedirect and URLRewrite exclude each other"
        ));
    }
    if let Some(timeouts) = &rule.timeouts {
        let read = |text: &Option<String>, name: &str| duration(text, &format!("{field}.timeouts.{name}"));
        translated.timeout = read(&timeouts.request, "request")?;
        translated.backend_timeout = read(&timeouts.backend_request, "backendRequest")?;
    }
    let retried = rule.retry.as_ref();
    translated.retry = retried.map(|r| retry(r, &format!("{field}.retry"))).transpose()?;
    Ok(translated)
}

/// The mirrors of a rule.
pub(super) fn mirrors(rule: &Rule) -> impl Iterator<Item = &RequestMirror> {
    let mirrors = rule.filters.iter().filter(|f| f.r#type == "RequestMirror");
    mirrors.filter_map(|f| f.request_mirror.as_ref())
}

/// A mirror to this Backend.
pub(super) fn mirror(from: &RequestMirror, backend: String, port: u32) -> wire::Mirror {
    let count = |n: i64| u32::try_from(n).unwrap_or_default();
    let (numerator, denominator) = match (&from.fraction, from.percent) {
        (Some(fraction), _) => (
            count(fraction.numerator),
            count(fraction.denominator.unwrap_or(100)),
        ),
        (None, Some(percent)) => (count(percent), 100),
        (None, None) => (0, 0),
    };
    wire::Mirror {
        backend,
        port,
        numerator,
        denominator,
    }
}

/// A backend whose reference is still to be resolved.
pub(super) fn backend(from: &BackendRef, field: &str) -> Result<wire::RouteBackend> {
    let mut translated = wire::RouteBackend {
        weight: u32::try_from(from.weight.unwrap_or(1))
            .map_err(|_| format!("{field}.weight: a negative weight"))?,
        ..wire::RouteBackend::default()
    };
    for (n, filter) in from.filters.iter().enumerate() {
        let field = format!("{field}.filters[{n}]");
        let (request, response) = of_backend(filter, &field)?;
        translated.request_headers = request.or(translated.request_headers);
        translated.response_headers = response.or(translated.response_headers);
    }
    Ok(translated)
}

fn of_backend(filter: &Filter, field: &str) -> Result<(Option<wire::HeaderEdit>, Option<wire::HeaderEdit>)> {
    match filter.r#type.as_str() {
        "RequestHeaderModifier" => Ok((filter.request_header_modifier.as_ref().map(headers), None)),
        "ResponseHeaderModifier" => Ok((None, filter.response_header_modifier.as_ref().map(headers))),
        other => Err(format!("{field}: type {other:?} is not supported for a backend")),
    }
}

/// The matches of a rule that cannot be honoured, as far as they can be understood; if none can, every request.
pub(super) fn matches_of_invalid(rule: &Rule) -> Vec<wire::RouteMatch> {
    rule.matches.iter().filter_map(|m| matching(m, "").ok()).collect()
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
        // The default of the Fetch standard.
        max_age_seconds: u32::try_from(from.max_age.unwrap_or(5)).unwrap_or_default(),
    }
}

fn retry(from: &RouteRetry, field: &str) -> Result<wire::Retry> {
    let codes = from.codes.iter().map(|code| u32::try_from(*code));
    let base = duration(&from.backoff, &format!("{field}.backoff"))?;
    let longest = base.map(|base| prost_types::Duration {
        seconds: base.seconds * i64::from(LONGEST_PAUSE) + i64::from(base.nanos / 100_000_000),
        nanos: base.nanos % 100_000_000 * 10,
    });
    Ok(wire::Retry {
        attempts: from
            .attempts
            .map_or(Ok(ATTEMPTS), u32::try_from)
            .map_err(|_| format!("{field}.attempts: out of range"))?,
        status_codes: codes
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| format!("{field}.codes: out of range"))?,
        // GEP-1731: connection errors are tried again whatever the codes.
        connect_failure: true,
        reset: true,
        backoff_base: base,
        backoff_max: longest,
        ..wire::Retry::default()
    })
}

fn duration(text: &Option<String>, field: &str) -> Result<Option<prost_types::Duration>> {
    let Some(text) = text else { return Ok(None) };
    let parsed = parse_duration(text).map_err(|error| format!("{field}: {error}"))?;
    let duration = prost_types::Duration::try_from(parsed).map_err(|error| format!("{field}: {error}"))?;
    Ok(Some(duration))
}
