use http::HeaderValue;

use super::*;
use crate::PathMatch;

const GET: Method = Method::GET;

fn exact(name: &str, value: &str) -> NamedMatch {
    NamedMatch {
        name: name.to_owned(),
        value: ValueMatch::Exact(value.to_owned()),
    }
}

fn pattern(name: &str, value: &str) -> NamedMatch {
    NamedMatch {
        name: name.to_owned(),
        value: ValueMatch::Regex(value.to_owned()),
    }
}

fn predicate(spec: &MatchSpec) -> Predicate {
    Predicate::compile(spec, &mut Patterns::default()).unwrap()
}

fn headers_match(conditions: Vec<NamedMatch>, fields: &[(&'static str, &[u8])]) -> bool {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    let head = RequestHead {
        method: &GET,
        authority: "echo:8080",
        path: "/",
        query: None,
        headers: &headers,
    };
    predicate(&MatchSpec {
        headers: conditions,
        ..MatchSpec::default()
    })
    .matches(&head)
}

fn query_matches(condition: NamedMatch, query: Option<&str>) -> bool {
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: &GET,
        authority: "echo",
        path: "/",
        query,
        headers: &headers,
    };
    predicate(&MatchSpec {
        query: vec![condition],
        ..MatchSpec::default()
    })
    .matches(&head)
}

#[test]
fn headers_are_all_required() {
    let both = || vec![exact("Version", "one"), exact("color", "blue")];
    assert!(headers_match(both(), &[("version", b"one"), ("color", b"blue")]));
    assert!(!headers_match(both(), &[("version", b"one")]));
    assert!(!headers_match(both(), &[("version", b"one"), ("color", b"Blue")]));
    assert!(!headers_match(vec![pattern("version", ".*")], &[]));
    assert!(headers_match(vec![pattern("version", ".*")], &[("version", b"")]));
}

#[test]
fn first_of_equal_names_counts() {
    let conditions = || vec![exact("version", "one"), exact("VERSION", "two")];
    assert!(headers_match(conditions(), &[("version", b"one")]));
    assert!(!headers_match(conditions(), &[("version", b"two")]));
    let spec = MatchSpec {
        headers: conditions(),
        ..MatchSpec::default()
    };
    assert_eq!(predicate(&spec).counts(), (1, 0));
}

#[test]
fn repeated_headers_are_one_value() {
    let twice: &[(&str, &[u8])] = &[("x-role", b"user"), ("x-role", b"admin")];
    assert!(headers_match(vec![exact("x-role", "user,admin")], twice));
    assert!(!headers_match(vec![exact("x-role", "user")], twice));
    assert!(!headers_match(vec![exact("x-role", "admin")], twice));
    let cookies: &[(&str, &[u8])] = &[("cookie", b"a=1"), ("cookie", b"b=2")];
    assert!(headers_match(
        vec![pattern("cookie", "(.*; )?b=2(;.*)?")],
        cookies
    ));
}

#[test]
fn host_is_the_authority() {
    assert!(headers_match(vec![exact("Host", "echo:8080")], &[]));
    assert!(!headers_match(
        vec![exact("host", "other")],
        &[("host", b"other")]
    ));
}

#[test]
fn header_values_may_be_no_utf8() {
    assert!(headers_match(vec![pattern("x", "a.b")], &[("x", b"a\xffb")]));
    assert!(!headers_match(vec![exact("x", "a")], &[("x", b"a\xff")]));
}

#[test]
fn query_parameters() {
    let whale = || exact("animal", "whale");
    for query in [
        "animal=whale",
        "a=b&animal=whale&c",
        "animal=whale&animal=dog",
        "anim%61l=wh%61le",
    ] {
        assert!(query_matches(whale(), Some(query)), "{query}");
    }
    for query in [
        "",
        "&",
        "animal",
        "animal=",
        "animal=Whale",
        "Animal=whale",
        "animal=whaledolphin",
        "animal=dog&animal=whale",
        "animal%3Dwhale",
    ] {
        assert!(!query_matches(whale(), Some(query)), "{query}");
    }
    assert!(!query_matches(whale(), None));
}

#[test]
fn query_values_are_decoded() {
    let spaced = || exact("q", "a b&c%");
    for query in ["q=a+b%26c%25", "q=a%20b%26c%", "q=a%20b%26c%25"] {
        assert!(query_matches(spaced(), Some(query)), "{query}");
    }
    assert!(query_matches(exact("flag", ""), Some("x&flag&y")));
    assert!(query_matches(pattern("n", "[0-9]+"), Some("n=%31%32")));
    assert!(!query_matches(pattern("n", "[0-9]+"), Some("n=12a")));
}

fn path(spec: PathMatch) -> FieldResult<Path> {
    Path::compile(&spec, &mut Patterns::default())
}

fn grpc(service: Option<ValueMatch>, method: Option<ValueMatch>) -> FieldResult<Path> {
    path(PathMatch::Grpc { service, method })
}

#[test]
fn paths_of_conditions_are_normal() {
    let normal = |text: &str| match path(PathMatch::Exact(text.to_owned())) {
        Ok(Path::Exact(path)) => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(normal("/caf%c3%a9/%7euser"), "/caf%C3%A9/~user");
    // Has no normal form, and arrives as it is sent.
    assert_eq!(normal("/a;b=1"), "/a;b=1");
    for refused in [
        "", "a", "/a//b", "/a/./b", "/a/..", "/a/.", "/a%2fb", "/a?b", "/a#b", "/a b", "/ä", "/a%", "/a%4",
        "/a%zz",
    ] {
        assert!(path(PathMatch::Exact(refused.to_owned())).is_err(), "{refused}");
        assert!(path(PathMatch::Prefix(refused.to_owned())).is_err(), "{refused}");
    }
}

#[test]
fn grpc_exact_is_a_path() {
    let text = |text: &str| Some(ValueMatch::Exact(text.to_owned()));
    assert!(matches!(grpc(text("shop.Cart"), text("Add")), Ok(Path::Exact(p)) if p == "/shop.Cart/Add"));
    assert!(matches!(grpc(text("shop.Cart"), None), Ok(Path::Prefix(p)) if p == "/shop.Cart"));
    for refused in [
        (None, None),
        (text(""), None),
        (text("a/b"), None),
        (text("a"), text("b/c")),
    ] {
        assert!(grpc(refused.0, refused.1).is_err());
    }
}

#[test]
fn grpc_patterns() {
    let text = |text: &str| Some(ValueMatch::Exact(text.to_owned()));
    let regex = |text: &str| Some(ValueMatch::Regex(text.to_owned()));
    let matches = |condition: FieldResult<Path>, request: &str| match condition {
        Ok(Path::Other(predicate)) => predicate.matches(request),
        other => panic!("{other:?}"),
    };
    assert!(matches(grpc(None, text("Add")), "/shop.Cart/Add"));
    assert!(!matches(grpc(None, text("Add")), "/shop.Cart/AddAll"));
    assert!(!matches(grpc(None, text("Add")), "/shop/Cart/Add"));
    assert!(!matches(grpc(None, text("Add")), "//Add"));
    // A pattern is for its part: neither its alternatives nor its wildcards cross the slash.
    assert!(matches(grpc(regex("a|b"), regex("c|d")), "/a/d"));
    assert!(!matches(grpc(regex("a|b"), regex("c|d")), "/a"));
    assert!(!matches(grpc(regex(".*"), None), "/a/b/c"));
    assert!(matches(grpc(regex("shop[.].+"), None), "/shop.Cart/Add"));
    assert!(!matches(grpc(regex("shop[.].+"), None), "/shop.Cart/"));
}
