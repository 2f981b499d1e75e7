use super::*;

fn header(name: &str, value: &str) -> HeaderSpec {
    HeaderSpec {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn applied(spec: &HeaderEditSpec, fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    HeaderEdit::compile(spec).unwrap().apply(&mut headers);
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    fields.sort();
    fields
}

fn error(spec: &HeaderEditSpec) -> (String, Reason) {
    let route = std::sync::Arc::new(crate::RouteName {
        kind: crate::RouteKind::HttpRoute,
        namespace: String::new(),
        name: String::new(),
    });
    let rule = crate::RuleId {
        route,
        index: 0,
        name: None,
    };
    let error = HeaderEdit::compile(spec).unwrap_err().of(rule);
    (error.field, error.reason)
}

#[test]
fn set_add_remove() {
    let spec = HeaderEditSpec {
        set: vec![
            header("X-Set", "new"),
            header("x-set", "ignored"),
            header("x-fresh", "1"),
        ],
        add: vec![header("x-add", "bar, baz"), header("x-more", "1")],
        remove: vec!["X-Gone".to_owned(), "x-absent".to_owned()],
    };
    let fields = [
        ("x-set", "a"),
        ("x-set", "b"),
        ("x-add", "foo"),
        ("x-gone", "1"),
        ("x-gone", "2"),
        ("x-other", "1"),
    ];
    let expected = [
        ("x-add", "bar, baz"),
        ("x-add", "foo"),
        ("x-fresh", "1"),
        ("x-more", "1"),
        ("x-other", "1"),
        ("x-set", "new"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(applied(&spec, &fields), expected);
}

#[test]
fn nothing_to_do() {
    assert!(
        HeaderEdit::compile(&HeaderEditSpec::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn protected_headers() {
    for name in [
        "Host",
        "connection",
        "Transfer-Encoding",
        "content-length",
        "te",
        "Trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ] {
        let reason = Reason::Protected(name.to_ascii_lowercase());
        let set = HeaderEditSpec {
            set: vec![header(name, "x")],
            ..HeaderEditSpec::default()
        };
        assert_eq!(error(&set), ("set[0].name".to_owned(), reason.clone()));
        let add = HeaderEditSpec {
            add: vec![header("x", "x"), header(name, "x")],
            ..HeaderEditSpec::default()
        };
        assert_eq!(error(&add), ("add[1].name".to_owned(), reason.clone()));
        let remove = HeaderEditSpec {
            remove: vec![name.to_owned()],
            ..HeaderEditSpec::default()
        };
        assert_eq!(error(&remove), ("remove[0]".to_owned(), reason));
    }
    for name in [":authority", "", "a b", "x:"] {
        let set = HeaderEditSpec {
            set: vec![header(name, "x")],
            ..HeaderEditSpec::default()
        };
        assert_eq!(error(&set).1, Reason::HeaderName(name.to_owned()));
    }
}

#[test]
fn values_are_checked() {
    for value in ["a\r\nx-admin: 1", "\n", "a\0b"] {
        let add = HeaderEditSpec {
            add: vec![header("x", value)],
            ..HeaderEditSpec::default()
        };
        assert_eq!(error(&add), ("add[0].value".to_owned(), Reason::HeaderValue));
    }
}

#[test]
fn one_action_for_a_name() {
    let spec = HeaderEditSpec {
        set: vec![header("x", "1")],
        add: vec![header("y", "1")],
        remove: vec!["X".to_owned()],
    };
    assert_eq!(
        error(&spec),
        ("remove".to_owned(), Reason::ManyActions("x".to_owned()))
    );
    let spec = HeaderEditSpec {
        set: vec![header("y", "1")],
        add: vec![header("Y", "1")],
        remove: vec![],
    };
    assert_eq!(
        error(&spec),
        ("add".to_owned(), Reason::ManyActions("y".to_owned()))
    );
}
