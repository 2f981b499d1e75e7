use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn spec() -> CorsSpec {
    CorsSpec {
        allow_origins: texts(&["https://www.foo.com", "https://*.bar.com"]),
        allow_credentials: true,
        allow_methods: texts(&["GET", "OPTIONS"]),
        allow_headers: texts(&["x-header-1", "x-header-2"]),
        expose_headers: texts(&["x-header-3", "x-header-4"]),
        max_age: Some(3600),
    }
}

fn wildcards(credentials: bool) -> CorsSpec {
    CorsSpec {
        allow_origins: texts(&["*"]),
        allow_credentials: credentials,
        allow_methods: texts(&["*"]),
        allow_headers: texts(&["*"]),
        expose_headers: texts(&["*"]),
        max_age: None,
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
        (name.parse().unwrap(), value.parse().unwrap())
    };
    fields.iter().map(field).collect()
}

fn sorted(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    fields.sort_unstable();
    fields
}

/// The status and the headers of the response to a preflight.
fn preflight(spec: &CorsSpec, origin: &str, method: &str) -> (u16, Vec<(String, String)>) {
    let request = headers(&[
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "x-header-1, authorization"),
    ]);
    let cors = Cors::compile(spec).unwrap();
    let response = cors.preflight(&Method::OPTIONS, &request).unwrap();
    let fields = sorted(&response.headers);
    let fields = fields
        .into_iter()
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    (response.status.as_u16(), fields)
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|&(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn preflight_from_an_allowed_origin() {
    for origin in [
        "https://www.foo.com",
        "https://www.bar.com",
        "https://xpto.www.bar.com",
    ] {
        let expected = owned(&[
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
            ("access-control-max-age", "3600"),
            ("vary", "origin"),
        ]);
        assert_eq!(preflight(&spec(), origin, "GET"), (204, expected));
    }
}

#[test]
fn preflight_from_another_origin() {
    for origin in [
        "https://foobar.com",
        "http://www.foo.com",
        "https://bar.com",
        "null",
    ] {
        assert_eq!(
            preflight(&spec(), origin, "GET"),
            (403, owned(&[("vary", "origin")])),
            "{origin}"
        );
    }
}

#[test]
fn preflight_with_wildcards() {
    let expected = owned(&[
        ("access-control-allow-headers", "x-header-1, authorization"),
        ("access-control-allow-methods", "*"),
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "*"),
        ("access-control-max-age", "5"),
    ]);
    assert_eq!(
        preflight(&wildcards(false), "https://a.com:12345", "PUT"),
        (204, expected)
    );
    let expected = owned(&[
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "x-header-1, authorization"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-origin", "https://a.com:12345"),
        ("access-control-max-age", "5"),
        ("vary", "origin"),
    ]);
    assert_eq!(
        preflight(&wildcards(true), "https://a.com:12345", "PUT"),
        (204, expected)
    );
}

// Without lists browsers allow what needs no permission.
#[test]
fn preflight_without_lists() {
    let only_origin = CorsSpec {
        allow_origins: texts(&["https://a.com"]),
        ..CorsSpec::default()
    };
    let expected = owned(&[
        ("access-control-allow-origin", "https://a.com"),
        ("access-control-max-age", "5"),
        ("vary", "origin"),
    ]);
    assert_eq!(preflight(&only_origin, "https://a.com", "GET"), (204, expected));
    assert_eq!(preflight(&CorsSpec::default(), "https://a.com", "GET").0, 403);
}

#[test]
fn what_is_no_preflight() {
    let cors = Cors::compile(&spec()).unwrap();
    let origin = ("origin", "https://www.foo.com");
    let asked = ("access-control-request-method", "GET");
    assert!(cors.preflight(&Method::OPTIONS, &headers(&[origin])).is_none());
    assert!(cors.preflight(&Method::OPTIONS, &headers(&[asked])).is_none());
    assert!(cors.preflight(&Method::GET, &headers(&[origin, asked])).is_none());
    assert!(
        cors.preflight(&Method::OPTIONS, &headers(&[origin, asked]))
            .is_some()
    );
}

/// The headers of a response, given those of the backend's.
fn actual(spec: &CorsSpec, origin: Option<&str>, backend: &[(&str, &str)]) -> Vec<(String, String)> {
    let request = origin.map_or_else(HeaderMap::new, |origin| headers(&[("origin", origin)]));
    let mut response = headers(backend);
    Cors::compile(spec).unwrap().actual(&request).apply(&mut response);
    owned(&sorted(&response))
}

#[test]
fn actual_responses() {
    let allowed = owned(&[
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", "https://www.foo.com"),
        ("access-control-expose-headers", "x-header-3, x-header-4"),
        ("vary", "origin"),
    ]);
    assert_eq!(actual(&spec(), Some("https://www.foo.com"), &[]), allowed);
    // A backend's own headers do not count, neither where the filter allows nor where it does not.
    let own = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
    ];
    assert_eq!(actual(&spec(), Some("https://www.foo.com"), &own), allowed);
    assert_eq!(
        actual(&spec(), Some("https://evil.com"), &own),
        owned(&[("vary", "origin")])
    );
    assert_eq!(
        actual(&spec(), None, &[("x", "1")]),
        owned(&[("vary", "origin"), ("x", "1")])
    );
}

#[test]
fn actual_responses_with_wildcards() {
    let expected = owned(&[
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "*"),
        ("x-a", "1"),
    ]);
    assert_eq!(actual(&wildcards(false), Some("null"), &[("x-a", "1")]), expected);
    assert_eq!(actual(&wildcards(false), None, &[]), []);
    let backend = [
        ("x-a", "1"),
        ("x-b", "2"),
        ("access-control-expose-headers", "x-secret"),
    ];
    let response = actual(&wildcards(true), Some("https://a.com"), &backend);
    let value = |name: &str| response.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    assert_eq!(
        value("access-control-allow-origin").as_deref(),
        Some("https://a.com")
    );
    let exposed = value("access-control-expose-headers").unwrap();
    let mut names: Vec<&str> = exposed.split(", ").collect();
    names.sort_unstable();
    assert_eq!(names, ["x-a", "x-b"]);
}

#[test]
fn vary_is_kept() {
    let vary = |backend: &[(&str, &str)]| {
        let fields = actual(&spec(), None, backend).into_iter();
        fields
            .filter(|(name, _)| name == "vary")
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        vary(&[("vary", "accept-encoding, Origin")]),
        ["accept-encoding, Origin"]
    );
    assert_eq!(vary(&[("vary", "*")]), ["*"]);
    assert_eq!(
        vary(&[("vary", "accept-encoding")]),
        ["accept-encoding", "origin"]
    );
}

#[test]
fn origins() {
    let allows = |pattern: &str, origin: &str| {
        let spec = CorsSpec {
            allow_origins: texts(&[pattern]),
            ..CorsSpec::default()
        };
        let request = headers(&[("origin", origin)]);
        Cors::compile(&spec).unwrap().actual(&request).allowed
    };
    for (pattern, origin, expected) in [
        ("https://foo.com", "https://foo.com", true),
        ("https://foo.com", "https://FOO.com", true),
        ("https://foo.com", "https://foo.com:443", true),
        ("https://foo.com:443", "https://foo.com", true),
        ("http://foo.com", "http://foo.com:80", true),
        ("https://foo.com", "http://foo.com", false),
        ("https://foo.com", "http://foo.com:443", false),
        ("https://foo.com", "https://foo.com:8443", false),
        ("https://foo.com:8443", "https://foo.com:8443", true),
        ("https://foo.com", "https://foo.com.evil.com", false),
        ("https://foo.com", "https://evilfoo.com", false),
        ("https://foo.com", "https://foo.com/", false),
        ("https://foo.com", "https://user@foo.com", false),
        ("https://foo.com", "https://foo.com:x", false),
        ("https://foo.com", "foo.com", false),
        ("https://*.bar.com", "https://a.bar.com", true),
        ("https://*.bar.com", "https://a.b.bar.com", true),
        ("https://*.bar.com", "https://bar.com", false),
        ("https://*.bar.com", "https://.bar.com", false),
        ("https://*.bar.com", "https://abar.com", false),
        ("https://*.bar.com", "https://a.bar.com:444", false),
        ("https://*.bar.com", "https://a.bar.com.evil.com", false),
        ("https://*.bar.com", "https://evil.com/.bar.com", false),
        ("http://*", "http://anything", true),
        ("http://*", "https://anything", false),
        ("http://*", "http://anything:8080", false),
        ("http://*:8080", "http://anything:8080", true),
        ("http://[::1]:80", "http://[::1]", true),
        ("*", "https://anything:1", true),
        ("*", "null", true),
    ] {
        assert_eq!(allows(pattern, origin), expected, "{pattern} {origin}");
    }
}

#[test]
fn invalid_fields() {
    let with_origins = |origins: &[&str]| CorsSpec {
        allow_origins: texts(origins),
        ..CorsSpec::default()
    };
    for spec in [
        with_origins(&["foo.com"]),
        with_origins(&["ftp://foo.com"]),
        with_origins(&["https://"]),
        with_origins(&["https://foo.com/"]),
        with_origins(&["https://foo.com:0"]),
        with_origins(&["https://foo.com:99999"]),
        with_origins(&["https://*foo.com"]),
        with_origins(&["https://a.*.com"]),
        with_origins(&["https://*.*"]),
        with_origins(&["null"]),
        with_origins(&["*", "https://foo.com"]),
        CorsSpec {
            allow_methods: texts(&["GET", "*"]),
            ..spec()
        },
        CorsSpec {
            allow_methods: texts(&["GET POST"]),
            ..spec()
        },
        CorsSpec {
            allow_headers: texts(&["a, b"]),
            ..spec()
        },
        CorsSpec {
            expose_headers: texts(&["*", "a"]),
            ..spec()
        },
        CorsSpec {
            max_age: Some(0),
            ..spec()
        },
    ] {
        assert!(Cors::compile(&spec).is_err(), "{spec:?}");
    }
}
