use super::*;
use crate::PathEditSpec;

const TARGET: RequestTarget<'_> = RequestTarget {
    scheme: "http",
    authority: "echo:8080",
    port: 8080,
    path: "/old/x",
    written: "/old/x",
    query: Some("a=b"),
};

fn compiled(spec: &RedirectSpec) -> Redirect {
    Redirect::compile(spec, Some("/old")).unwrap()
}

fn location(spec: &RedirectSpec, target: &RequestTarget<'_>) -> String {
    let location = compiled(spec).location(target).unwrap();
    location.to_str().unwrap().to_owned()
}

// The cases of the conformance test "HTTPRouteRedirectPortAndScheme", and more.
#[test]
fn port_and_scheme() {
    for (scheme, port, frontend, expected) in [
        (None, None, ("http", 80), "http://example.org"),
        (None, Some(80), ("http", 80), "http://example.org"),
        (None, Some(8080), ("http", 80), "http://example.org:8080"),
        (Some("https"), None, ("http", 80), "https://example.org"),
        (Some("https"), Some(443), ("http", 80), "https://example.org"),
        (
            Some("https"),
            Some(8443),
            ("http", 80),
            "https://example.org:8443",
        ),
        (None, None, ("http", 8080), "http://example.org:8080"),
        (None, Some(80), ("http", 8080), "http://example.org"),
        (Some("https"), None, ("http", 8080), "https://example.org"),
        (Some("http"), None, ("http", 8080), "http://example.org"),
        (None, None, ("https", 443), "https://example.org"),
        (None, Some(443), ("https", 443), "https://example.org"),
        (None, Some(8443), ("https", 443), "https://example.org:8443"),
        (Some("http"), None, ("https", 443), "http://example.org"),
        (Some("http"), Some(80), ("https", 443), "http://example.org"),
        (
            Some("http"),
            Some(8080),
            ("https", 443),
            "http://example.org:8080",
        ),
        (Some("http"), Some(443), ("https", 443), "http://example.org:443"),
        (None, None, ("https", 80), "https://example.org:80"),
    ] {
        let spec = RedirectSpec {
            scheme: scheme.map(str::to_owned),
            hostname: Some("example.org".to_owned()),
            port,
            ..RedirectSpec::default()
        };
        let target = RequestTarget {
            scheme: frontend.0,
            port: frontend.1,
            ..TARGET
        };
        let expected = format!("{expected}/old/x?a=b");
        assert_eq!(
            location(&spec, &target),
            expected,
            "{scheme:?} {port:?} {frontend:?}"
        );
    }
}

#[test]
fn host_of_the_request() {
    for (authority, expected) in [
        ("echo", "http://echo:8080/old/x?a=b"),
        ("echo:1", "http://echo:8080/old/x?a=b"),
        ("[fd00::1]", "http://[fd00::1]:8080/old/x?a=b"),
        ("[fd00::1]:9", "http://[fd00::1]:8080/old/x?a=b"),
    ] {
        let target = RequestTarget { authority, ..TARGET };
        assert_eq!(location(&RedirectSpec::default(), &target), expected);
    }
}

#[test]
fn path_is_edited() {
    let with_path = |path| RedirectSpec {
        path: Some(path),
        ..RedirectSpec::default()
    };
    let prefix = with_path(PathEditSpec::Prefix("/new".to_owned()));
    assert_eq!(location(&prefix, &TARGET), "http://echo:8080/new/x?a=b");
    let full = with_path(PathEditSpec::Full("/full".to_owned()));
    assert_eq!(location(&full, &TARGET), "http://echo:8080/full?a=b");
    let asterisk = RequestTarget {
        path: "*",
        written: "*",
        query: None,
        ..TARGET
    };
    assert_eq!(location(&RedirectSpec::default(), &asterisk), "http://echo:8080/");
    let written = RequestTarget {
        written: "/old//x",
        ..TARGET
    };
    assert_eq!(
        location(&RedirectSpec::default(), &written),
        "http://echo:8080/old//x?a=b"
    );
    assert_eq!(location(&prefix, &written), "http://echo:8080/new/x?a=b");
    let no_query = RequestTarget {
        query: None,
        ..TARGET
    };
    assert_eq!(location(&full, &no_query), "http://echo:8080/full");
}

#[test]
fn statuses() {
    let status = |status| {
        let spec = RedirectSpec {
            status,
            ..RedirectSpec::default()
        };
        Redirect::compile(&spec, None)
            .map(|redirect| redirect.status().as_u16())
            .ok()
    };
    assert_eq!(status(None), Some(302));
    for code in [301, 302, 303, 307, 308] {
        assert_eq!(status(Some(code)), Some(code));
    }
    for code in [200, 300, 304, 305, 400] {
        assert_eq!(status(Some(code)), None);
    }
}

#[test]
fn invalid_fields() {
    for spec in [
        RedirectSpec {
            scheme: Some("ftp".to_owned()),
            ..RedirectSpec::default()
        },
        RedirectSpec {
            port: Some(0),
            ..RedirectSpec::default()
        },
        RedirectSpec {
            hostname: Some("a/b".to_owned()),
            ..RedirectSpec::default()
        },
    ] {
        assert!(Redirect::compile(&spec, None).is_err(), "{spec:?}");
    }
}

#[test]
fn no_header_injection() {
    let target = RequestTarget {
        path: "/a\r\nx: y",
        written: "/a\r\nx: y",
        ..TARGET
    };
    assert!(compiled(&RedirectSpec::default()).location(&target).is_err());
}
