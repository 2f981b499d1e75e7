use http::{HeaderMap, Method};

use super::*;
use crate::{
    Action, BackendSpec, MatchSpec, NamedMatch, PathMatch, Reason, RouteKind, RouteName, RouteSpec, RuleSpec,
    ValueMatch,
};

fn route(name: &str, rules: Vec<RuleSpec>) -> RouteSpec {
    RouteSpec {
        name: RouteName {
            kind: RouteKind::HttpRoute,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        hostnames: Vec::new(),
        rules,
    }
}

/// A rule whose one backend names it.
fn rule(to: &str, matches: Vec<MatchSpec>) -> RuleSpec {
    RuleSpec {
        matches,
        backends: vec![BackendSpec::new(to, 80)],
        ..RuleSpec::default()
    }
}

fn exact(path: &str) -> MatchSpec {
    with_path(PathMatch::Exact(path.to_owned()))
}

fn prefix(path: &str) -> MatchSpec {
    with_path(PathMatch::Prefix(path.to_owned()))
}

fn regex(pattern: &str) -> MatchSpec {
    with_path(PathMatch::Regex(pattern.to_owned()))
}

fn grpc(service: Option<ValueMatch>, method: Option<ValueMatch>) -> MatchSpec {
    with_path(PathMatch::Grpc { service, method })
}

fn with_path(path: PathMatch) -> MatchSpec {
    MatchSpec {
        path,
        ..MatchSpec::default()
    }
}

impl MatchSpec {
    fn header(mut self, name: &str, value: ValueMatch) -> Self {
        let name = name.to_owned();
        self.headers.push(NamedMatch { name, value });
        self
    }

    fn query(mut self, name: &str, value: ValueMatch) -> Self {
        let name = name.to_owned();
        self.query.push(NamedMatch { name, value });
        self
    }

    fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }
}

fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.to_owned())
}

fn like(pattern: &str) -> ValueMatch {
    ValueMatch::Regex(pattern.to_owned())
}

/// The backend that a `GET` of this gets.
fn get(table: &RouteTable, target: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let head = RequestHead {
        method: &Method::GET,
        authority: "echo",
        path,
        query,
        headers: &headers,
    };
    let all = table.lookup_all(&head);
    let found = table.lookup(&head).unwrap();
    assert_eq!(all.first().copied(), found);
    match &found?.action {
        Action::Forward(split) => split.pick(0).map(|backend| backend.id.to_string()),
        other => Some(format!("{other:?}")),
    }
}

type Fields = &'static [(&'static str, &'static str)];

/// Tests which backends requests get.
fn check(rules: Vec<RuleSpec>, requests: &[(&str, Fields, Option<&str>)]) {
    let table = RouteTable::compile(&[route("echo", rules)]);
    assert_eq!(table.errors(), []);
    for (target, headers, expected) in requests {
        assert_eq!(
            get(&table, target, headers).as_deref(),
            *expected,
            "{target} {headers:?}"
        );
    }
}

#[test]
fn prefix_is_by_segment() {
    check(
        vec![rule("abc", vec![prefix("/abc/")])],
        &[
            ("/abc", &[], Some("abc")),
            ("/abc/", &[], Some("abc")),
            ("/abc/def", &[], Some("abc")),
            ("/abc//", &[], Some("abc")),
            ("/abcd", &[], None),
            ("/ABC", &[], None),
            ("/ab", &[], None),
            ("/", &[], None),
            ("*", &[], None),
        ],
    );
}

#[test]
fn no_matches_match_everything() {
    check(
        vec![rule("all", vec![])],
        &[
            ("/", &[], Some("all")),
            ("/a/b", &[], Some("all")),
            ("*", &[], Some("all")),
        ],
    );
}

#[test]
fn exact_is_the_whole_path() {
    check(
        vec![rule("one", vec![exact("/one")]), rule("root", vec![exact("/")])],
        &[
            ("/one", &[], Some("one")),
            ("/one/", &[], None),
            ("/one/two", &[], None),
            ("/", &[], Some("root")),
        ],
    );
}

#[test]
fn longest_prefix_whose_conditions_hold() {
    check(
        vec![
            rule("root", vec![prefix("/")]),
            rule("a", vec![prefix("/a")]),
            rule("abc", vec![prefix("/a/b/c").header("v", is("1"))]),
            rule("ab", vec![prefix("/a/b").header("v", is("2"))]),
        ],
        &[
            ("/x", &[], Some("root")),
            ("/a/b/c/d", &[("v", "1")], Some("abc")),
            ("/a/b/c/d", &[("v", "2")], Some("ab")),
            ("/a/b/c/d", &[("v", "3")], Some("a")),
            ("/a/bc", &[], Some("a")),
        ],
    );
}

// The conditions of one match weigh in this order: path, method, number of headers, number of query parameters.
#[test]
fn order_of_criteria() {
    let any_header = |spec: MatchSpec| spec.header("h1", is("x")).header("h2", is("x"));
    check(
        vec![
            rule("query", vec![prefix("/").query("q", is("1")).query("r", is("1"))]),
            rule("headers", vec![any_header(prefix("/"))]),
            rule("method", vec![prefix("/").method("GET")]),
            rule("longer", vec![prefix("/a")]),
            rule("exact", vec![exact("/a/b")]),
            rule(
                "one header",
                vec![prefix("/").header("h1", is("x")).query("q", is("1"))],
            ),
            rule("post", vec![prefix("/").method("POST")]),
        ],
        &[
            ("/a/b?q=1&r=1", &[("h1", "x"), ("h2", "x")], Some("exact")),
            ("/a/c?q=1&r=1", &[("h1", "x"), ("h2", "x")], Some("longer")),
            ("/x?q=1&r=1", &[("h1", "x"), ("h2", "x")], Some("method")),
        ],
    );
    check(
        vec![
            rule("query", vec![prefix("/").query("q", is("1")).query("r", is("1"))]),
            rule("headers", vec![any_header(prefix("/"))]),
            rule(
                "one header",
                vec![prefix("/").header("h1", is("x")).query("q", is("1"))],
            ),
        ],
        &[
            ("/?q=1&r=1", &[("h1", "x"), ("h2", "x")], Some("headers")),
            ("/?q=1&r=1", &[("h1", "x")], Some("one header")),
            ("/?q=1&r=1", &[], Some("query")),
            ("/?q=1", &[], None),
        ],
    );
}

#[test]
fn regex_is_between_exact_and_prefix() {
    check(
        vec![
            rule("all", vec![prefix("/")]),
            rule("users", vec![prefix("/user")]),
            rule("user", vec![regex("/user/[0-9]+")]),
            rule("one", vec![exact("/user/1")]),
            rule("later", vec![regex("/user/[0-9]+/?")]),
            rule(
                "later, with a header",
                vec![regex("/user/.*").header("v", is("2"))],
            ),
        ],
        &[
            ("/user/1", &[], Some("one")),
            ("/user/2", &[], Some("user")),
            ("/user/2/", &[], Some("later")),
            ("/user/2", &[("v", "2")], Some("later, with a header")),
            ("/user/x", &[], Some("users")),
            ("/x", &[], Some("all")),
        ],
    );
}

#[test]
fn grpc_precedence() {
    check(
        vec![
            rule("all", vec![]),
            rule("method pattern", vec![grpc(None, Some(like("A.*")))]),
            rule("method", vec![grpc(None, Some(is("Add")))]),
            rule("service pattern", vec![grpc(Some(like(".*Cart")), None)]),
            rule("service", vec![grpc(Some(is("shop.Cart")), None)]),
            rule(
                "both patterns",
                vec![grpc(Some(like("shop[.].*")), Some(like("Add")))],
            ),
            rule("both", vec![grpc(Some(is("shop.Cart")), Some(is("Add")))]),
        ],
        &[
            ("/shop.Cart/Add", &[], Some("both")),
            ("/shop.Other/Add", &[], Some("both patterns")),
            ("/shop.Cart/Get", &[], Some("service")),
            ("/old.Cart/Add", &[], Some("service pattern")),
            ("/old.Order/Add", &[], Some("method")),
            ("/old.Order/AddAll", &[], Some("method pattern")),
            ("/old.Order/Get", &[], Some("all")),
        ],
    );
}

// Ties go to the older route, then to the earlier rule.
#[test]
fn ties() {
    let table = RouteTable::compile(&[
        route(
            "old",
            vec![rule("x", vec![prefix("/x")]), rule("first", vec![prefix("/a")])],
        ),
        route("new", vec![rule("second", vec![prefix("/a"), prefix("/b")])]),
        route(
            "newest",
            vec![
                rule("third", vec![prefix("/b/")]),
                rule("fourth", vec![exact("/b")]),
            ],
        ),
    ]);
    assert_eq!(get(&table, "/a", &[]).as_deref(), Some("first"));
    assert_eq!(get(&table, "/b/c", &[]).as_deref(), Some("second"));
    assert_eq!(get(&table, "/b", &[]).as_deref(), Some("fourth"));
    let shadowed: Vec<_> = table
        .shadowed()
        .iter()
        .map(|s| (s.rule.to_string(), s.by.to_string()))
        .collect();
    let expected = [("HTTPRoute shop/newest rules[0]", "HTTPRoute shop/new rules[0]")];
    assert_eq!(shadowed, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn shadowed_rules() {
    let shadowed = |rules: Vec<RuleSpec>| {
        let table = RouteTable::compile(&[route("r", rules)]);
        assert_eq!(table.errors(), []);
        let pairs = table.shadowed().iter().map(|s| (s.rule.index, s.by.index));
        pairs.collect::<Vec<_>>()
    };
    // The same conditions in another order and in other cases.
    let first = prefix("/a").header("x", is("1")).header("y", is("2"));
    let second = prefix("/a/").header("Y", is("2")).header("X", is("1"));
    assert_eq!(
        shadowed(vec![
            rule("", vec![first.clone()]),
            rule("", vec![second.clone()])
        ]),
        [(1, 0)]
    );
    // One match of two is reached.
    assert_eq!(
        shadowed(vec![rule("", vec![first]), rule("", vec![second, exact("/")])]),
        []
    );
    // A rule does not hide itself, and what is hidden hides nothing.
    assert_eq!(
        shadowed(vec![
            rule("", vec![exact("/a"), exact("/a")]),
            rule("", vec![exact("/a")]),
            rule("", vec![exact("/a")]),
        ]),
        [(1, 0), (2, 0)]
    );
    // Patterns: equal ones, and one that matches an exact value.
    assert_eq!(
        shadowed(vec![
            rule("", vec![regex("/a.*")]),
            rule("", vec![regex("/a.*").method("GET")]),
            rule("", vec![regex("/a.*")]),
            rule("", vec![prefix("/").header("v", like("1.*"))]),
            rule("", vec![prefix("/").header("v", is("1.2"))]),
            rule("", vec![prefix("/").header("v", is("2.2"))]),
        ]),
        [(2, 0), (4, 3)]
    );
    // Narrower rules take precedence, wherever they stand.
    assert_eq!(
        shadowed(vec![
            rule("", vec![prefix("/")]),
            rule("", vec![prefix("/").method("GET")]),
            rule("", vec![prefix("/a")]),
            rule("", vec![exact("/a")]),
        ]),
        []
    );
}

// What a rule with an error matches does not fall to a wider rule.
#[test]
fn invalid_rules_are_closed() {
    let mut refused = rule("refused", vec![prefix("/filter")]);
    refused.filters.request_headers.remove = vec!["Connection".to_owned()];
    let table = RouteTable::compile(&[route(
        "r",
        vec![
            rule("all", vec![prefix("/")]),
            refused,
            rule("pattern", vec![exact("/pattern"), regex("/(")]),
            rule(
                "header",
                vec![prefix("/a").header("v", is("1")).header("not a name", is("1"))],
            ),
        ],
    )]);
    assert_eq!(get(&table, "/filter/x", &[]).as_deref(), Some("Invalid"));
    assert_eq!(get(&table, "/pattern", &[]).as_deref(), Some("Invalid"));
    assert_eq!(get(&table, "/a", &[("v", "1")]).as_deref(), Some("all"));
    let errors: Vec<_> = table
        .errors()
        .iter()
        .map(|e| (e.rule.index, e.field.as_str()))
        .collect();
    assert_eq!(
        errors,
        [
            (1, "filters.requestHeaderModifier.remove[0]"),
            (2, "matches[1].path.value"),
            (3, "matches[0].headers[1].name"),
        ]
    );
    assert_eq!(
        table.errors()[0].reason,
        Reason::Protected("connection".to_owned())
    );
    assert_eq!(
        table.errors()[1].to_string(),
        "HTTPRoute shop/r rules[2]: matches[1].path.value: invalid regular expression: unclosed group"
    );
}

// Many matches of one path: they are found by an index, with the same precedence.
#[test]
fn index_of_many_matches() {
    let mut rules: Vec<RuleSpec> = (0..100)
        .map(|i| {
            rule(
                &format!("tenant {i}"),
                vec![prefix("/").header("tenant", is(&i.to_string()))],
            )
        })
        .collect();
    rules.push(rule(
        "beta",
        vec![prefix("/").header("tenant", is("7")).query("beta", is("1"))],
    ));
    rules.push(rule("region", vec![prefix("/").header("region", is("eu"))]));
    rules.push(rule("odd", vec![prefix("/").header("tenant", like(".*[13579]"))]));
    rules.push(rule("rest", vec![prefix("/").query("rest", is("1"))]));
    check(
        rules,
        &[
            ("/", &[("tenant", "99")], Some("tenant 99")),
            ("/x", &[("tenant", "99"), ("region", "eu")], Some("tenant 99")),
            ("/x", &[("tenant", "100"), ("region", "eu")], Some("region")),
            ("/x", &[("tenant", "101"), ("region", "eu")], Some("region")),
            ("/x", &[("tenant", "101")], Some("odd")),
            ("/?beta=1", &[("tenant", "7")], Some("beta")),
            ("/?beta=2", &[("tenant", "7")], Some("tenant 7")),
            ("/?rest=1", &[("tenant", "100")], Some("rest")),
            ("/", &[], None),
        ],
    );
}

#[test]
fn lookup_all_shows_what_is_hidden() {
    let table = RouteTable::compile(&[
        route(
            "a",
            vec![
                rule("all", vec![]),
                rule("exact", vec![exact("/a"), prefix("/a")]),
            ],
        ),
        route(
            "b",
            vec![
                rule("prefix", vec![prefix("/a")]),
                rule("other", vec![prefix("/b")]),
            ],
        ),
    ]);
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: &Method::GET,
        authority: "echo",
        path: "/a",
        query: None,
        headers: &headers,
    };
    let found: Vec<_> = table
        .lookup_all(&head)
        .iter()
        .map(|plan| plan.rule.to_string())
        .collect();
    assert_eq!(
        found,
        [
            "HTTPRoute shop/a rules[1]",
            "HTTPRoute shop/b rules[0]",
            "HTTPRoute shop/a rules[0]"
        ]
    );
}

// A browser asks with OPTIONS for a POST, which has a rule of its own.
#[test]
fn preflight_for_another_method() {
    let with_cors = |to: &str, spec: MatchSpec, origin: &str| RuleSpec {
        cors: Some(crate::CorsSpec {
            allow_origins: vec![origin.to_owned()],
            ..crate::CorsSpec::default()
        }),
        ..rule(to, vec![spec])
    };
    let table = RouteTable::compile(&[route(
        "r",
        vec![
            rule("all", vec![]),
            with_cors("post", prefix("/a").method("POST"), "https://a.com"),
            with_cors("all of b", prefix("/b"), "https://b.com"),
            with_cors("post of b", prefix("/b").method("POST"), "https://a.com"),
        ],
    )]);
    assert_eq!(table.errors(), []);
    let preflight = |method: Method, path: &str, requested: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("origin", "https://a.com".parse().unwrap());
        if let Some(requested) = requested {
            headers.insert("access-control-request-method", requested.parse().unwrap());
        }
        let head = RequestHead {
            method: &method,
            authority: "echo",
            path,
            query: None,
            headers: &headers,
        };
        table
            .preflight(&head)
            .map(|(plan, response)| (plan.rule.index, response.status.as_u16()))
    };
    assert_eq!(preflight(Method::OPTIONS, "/a", Some("POST")), Some((1, 204)));
    assert_eq!(preflight(Method::OPTIONS, "/a", Some("PUT")), None);
    assert_eq!(preflight(Method::OPTIONS, "/a", Some("not a method")), None);
    assert_eq!(preflight(Method::OPTIONS, "/a", None), None);
    assert_eq!(preflight(Method::POST, "/a", Some("POST")), None);
    // The rule that matches the preflight itself comes first.
    assert_eq!(preflight(Method::OPTIONS, "/b", Some("POST")), Some((2, 403)));
}

// A long value is no way around a rule with a pattern, and no way to keep a proxy busy.
#[test]
fn values_too_long_for_patterns() {
    let long = "a".repeat(PATTERN_VALUE_LIMIT + 1);
    let path = format!("/{long}");
    let lookup = |table: &RouteTable, path: &str, header: &str, query: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-role", header.parse().unwrap());
        let query = format!("q={query}");
        let head = RequestHead {
            method: &Method::GET,
            authority: "echo",
            path,
            query: Some(&query),
            headers: &headers,
        };
        let found = table.lookup(&head);
        found.map(|plan| plan.map(|plan| plan.rule.index))
    };
    let value = |name: &str| Err(ValueTooLong::Value(name.to_owned()));
    let compile = |rules: Vec<RuleSpec>| RouteTable::compile(&[route("r", rules)]);
    let plain = compile(vec![
        rule("", vec![prefix("/").header("x-role", is("a"))]),
        rule("", vec![]),
    ]);
    assert_eq!(lookup(&plain, &path, &long, &long), Ok(Some(1)));

    let paths = compile(vec![rule("", vec![regex("/b.*")]), rule("", vec![])]);
    assert_eq!(lookup(&paths, "/b", &long, &long), Ok(Some(0)));
    assert_eq!(lookup(&paths, &path, "", ""), Err(ValueTooLong::Path));
    let headers = compile(vec![
        rule("", vec![prefix("/").header("X-Role", like("b.*"))]),
        rule("", vec![]),
    ]);
    assert_eq!(lookup(&headers, &path, "b", &long), Ok(Some(0)));
    assert_eq!(lookup(&headers, "/", &long, ""), value("the header x-role"));
    let queries = compile(vec![
        rule("", vec![prefix("/").query("q", like("b.*"))]),
        rule("", vec![]),
    ]);
    assert_eq!(lookup(&queries, &path, &long, "b"), Ok(Some(0)));
    assert_eq!(lookup(&queries, "/", "", &long), value("the query parameter q"));
}
