//! The route table against a matcher that follows the words of the Gateway API: it tries every match of every rule, and
//! sorts those that match.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use ambit_l7::{
    MatchSpec, NamedMatch, PathMatch, RequestHead, RouteKind, RouteName, RouteSpec, RouteTable, RuleSpec,
    ValueMatch,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use regex::Regex;

const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const VALUES: [&str; 4] = ["1", "2", "12", "x"];
const SEGMENTS: [&str; 4] = ["s", "ss", "t", "u"];
const PATTERNS: [&str; 12] = [
    "/.*",
    "/s/[a-t]+",
    "/(s|ss)(/.*)?",
    "/t|/u/t",
    "/[^/]*",
    "/s.*",
    "/ss?/t",
    "/s/t/.*",
    "/t/[su]/.*",
    "/u",
    "/t/s+",
    "/ss/t{0,1}/?",
];
const VALUE_PATTERNS: [&str; 4] = ["1.*", ".*2", "[0-9]+", "x|1"];

struct Request {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

fn any_path(rng: &mut StdRng) -> String {
    let mut path = String::new();
    for _ in 0..rng.random_range(0..4) {
        path.push('/');
        path.push_str(SEGMENTS.choose(rng).unwrap());
    }
    if path.is_empty() || rng.random_ratio(1, 5) {
        path.push('/');
    }
    path
}

fn any_named(rng: &mut StdRng, patterns: bool) -> Vec<NamedMatch> {
    let count = *[0, 0, 0, 1, 1, 2, 3].choose(rng).unwrap();
    let mut one = |_| {
        let name = NAMES.choose(rng).unwrap().to_string();
        let name = if rng.random_ratio(1, 4) {
            name.to_uppercase()
        } else {
            name
        };
        let value = match patterns && rng.random_ratio(1, 4) {
            true => ValueMatch::Regex(VALUE_PATTERNS.choose(rng).unwrap().to_string()),
            false => ValueMatch::Exact(VALUES.choose(rng).unwrap().to_string()),
        };
        NamedMatch { name, value }
    };
    (0..count).map(&mut one).collect()
}

fn any_match(rng: &mut StdRng) -> MatchSpec {
    let path = match rng.random_range(0..8) {
        0 | 1 => PathMatch::Exact(any_path(rng)),
        2 => PathMatch::Regex(PATTERNS.choose(rng).unwrap().to_string()),
        3 => PathMatch::Prefix("/".to_owned()),
        _ => PathMatch::Prefix(any_path(rng)),
    };
    let method = rng
        .random_ratio(1, 4)
        .then(|| METHODS.choose(rng).unwrap().to_string());
    MatchSpec {
        path,
        method,
        headers: any_named(rng, true),
        query: any_named(rng, true),
    }
}

fn any_routes(rng: &mut StdRng, any_match: fn(&mut StdRng) -> MatchSpec) -> Vec<RouteSpec> {
    // Few, or enough for the table to have indexes.
    let most = *[3, 3, 40].choose(rng).unwrap();
    let mut routes = Vec::new();
    for i in 0..rng.random_range(1..4) {
        let mut rules = Vec::new();
        for _ in 0..rng.random_range(1..=most) {
            let matches = (0..rng.random_range(0..4)).map(|_| any_match(rng)).collect();
            rules.push(RuleSpec {
                matches,
                ..RuleSpec::default()
            });
        }
        routes.push(RouteSpec {
            name: RouteName {
                kind: RouteKind::HttpRoute,
                namespace: "ns".to_owned(),
                name: format!("r{i}"),
            },
            hostnames: Vec::new(),
            rules,
        });
    }
    routes
}

fn any_request(rng: &mut StdRng) -> Request {
    let mut pairs = || {
        let count = rng.random_range(0..4);
        let mut pair = |_| {
            let name = NAMES.choose(rng).unwrap().to_string();
            (name, VALUES.choose(rng).unwrap().to_string())
        };
        (0..count).map(&mut pair).collect::<Vec<_>>()
    };
    let (headers, query) = (pairs(), pairs());
    Request {
        method: METHODS.choose(rng).unwrap().parse().unwrap(),
        path: if rng.random_ratio(1, 50) {
            "*".to_owned()
        } else {
            any_path(rng)
        },
        query,
        headers,
    }
}

fn looked_up(table: &RouteTable, request: &Request) -> Option<(String, usize)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let query = query.join("&");
    let head = RequestHead {
        method: &request.method,
        authority: "echo",
        path: &request.path,
        query: (!query.is_empty()).then_some(&*query),
        headers: &headers,
    };
    let found = table.lookup(&head).unwrap();
    assert_eq!(table.lookup_all(&head).first().copied(), found);
    found.map(|plan| (plan.rule.route.name.clone(), plan.rule.index))
}

fn whole(pattern: &str, value: &str) -> bool {
    static KNOWN: LazyLock<HashMap<&str, Regex>> = LazyLock::new(|| {
        let regex = |&pattern| (pattern, Regex::new(&format!("^(?:{pattern})$")).unwrap());
        PATTERNS.iter().chain(&VALUE_PATTERNS).map(regex).collect()
    });
    KNOWN[pattern].is_match(value)
}

fn holds(condition: &ValueMatch, value: &str) -> bool {
    match condition {
        ValueMatch::Exact(exact) => exact == value,
        ValueMatch::Regex(pattern) => whole(pattern, value),
    }
}

/// "If multiple entries specify equivalent header names, only the first entry [...] MUST be considered."
fn effective(conditions: &[NamedMatch], any_case: bool) -> Vec<(String, &ValueMatch)> {
    let mut seen = HashSet::new();
    conditions
        .iter()
        .map(|c| {
            (
                if any_case {
                    c.name.to_lowercase()
                } else {
                    c.name.clone()
                },
                &c.value,
            )
        })
        .filter(|(name, _)| seen.insert(name.clone()))
        .collect()
}

fn path_matches(spec: &PathMatch, path: &str) -> bool {
    match spec {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Regex(pattern) => whole(pattern, path),
        PathMatch::Prefix(prefix) => {
            // "Done on a path element by element basis. [...] a trailing `/` is ignored."
            let elements: Vec<&str> = prefix
                .split('/')
                .skip(1)
                .filter(|element| !element.is_empty())
                .collect();
            elements.is_empty()
                || path.split('/').skip(1).take(elements.len()).collect::<Vec<_>>() == elements
        }
        PathMatch::Grpc { service, method } => {
            let parts: Vec<&str> = path.split('/').collect();
            let [_, s, m] = parts[..] else { return false };
            service.as_ref().is_none_or(|c| holds(c, s)) && method.as_ref().is_none_or(|c| holds(c, m))
        }
    }
}

fn matches(spec: &MatchSpec, request: &Request) -> bool {
    let header = |name: &str| {
        let values: Vec<&str> = request
            .headers
            .iter()
            .filter(|h| h.0 == name)
            .map(|h| &*h.1)
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let query = |name: &str| request.query.iter().find(|q| q.0 == name).map(|q| q.1.clone());
    path_matches(&spec.path, &request.path)
        && spec
            .method
            .as_ref()
            .is_none_or(|method| method == request.method.as_str())
        && effective(&spec.headers, true)
            .iter()
            .all(|(name, condition)| header(name).is_some_and(|value| holds(condition, &value)))
        && effective(&spec.query, false)
            .iter()
            .all(|(name, condition)| query(name).is_some_and(|value| holds(condition, &value)))
}

/// The rule with the smallest key among those that match; ties go to the first one.
fn by_words<K: Ord>(
    routes: &[RouteSpec],
    request: &Request,
    key: impl Fn(&MatchSpec) -> K,
) -> Option<(String, usize)> {
    let everything = vec![MatchSpec::default()];
    let mut found = Vec::new();
    for route in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            let specs = if rule.matches.is_empty() {
                &everything
            } else {
                &rule.matches
            };
            for spec in specs.iter().filter(|spec| matches(spec, request)) {
                found.push((key(spec), (route.name.name.clone(), index)));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().next().map(|(_, rule)| rule)
}

#[test]
fn http_precedence() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut hits = 0;
    for round in 0..400 {
        let routes = any_routes(&mut rng, any_match);
        let table = RouteTable::compile(&routes);
        assert_eq!(table.errors(), []);
        let mut reached = HashSet::new();
        for _ in 0..60 {
            let request = any_request(&mut rng);
            let expected = by_words(&routes, &request, |spec| {
                let (kind, length) = match &spec.path {
                    PathMatch::Exact(_) => (0, 0),
                    // Left to implementations.
                    PathMatch::Regex(_) | PathMatch::Grpc { .. } => (1, 0),
                    PathMatch::Prefix(prefix) => (2, prefix.trim_end_matches('/').len()),
                };
                (
                    kind,
                    Reverse(length),
                    spec.method.is_none(),
                    Reverse(effective(&spec.headers, true).len()),
                    Reverse(effective(&spec.query, false).len()),
                )
            });
            let found = looked_up(&table, &request);
            assert_eq!(
                found, expected,
                "round {round}: {} {:?}",
                request.path, request.headers
            );
            hits += usize::from(found.is_some());
            reached.extend(found);
        }
        for shadowed in table.shadowed() {
            let rule = (shadowed.rule.route.name.clone(), shadowed.rule.index);
            assert!(
                !reached.contains(&rule),
                "round {round}: {} is reached",
                shadowed.rule
            );
        }
    }
    // Neither all nor nothing.
    assert!((4_000..22_000).contains(&hits), "{hits}");
}

const SERVICES: [&str; 3] = ["s", "s.t", "u"];
const CALLS: [&str; 3] = ["m", "mm", "n"];

fn any_grpc_match(rng: &mut StdRng) -> MatchSpec {
    let exact = |text: &&str| ValueMatch::Exact(text.to_string());
    let service = SERVICES.choose(rng).map(exact);
    let method = CALLS.choose(rng).map(exact);
    let path = match rng.random_range(0..4) {
        0 => PathMatch::default(),
        1 => PathMatch::Grpc {
            service,
            method: None,
        },
        2 => PathMatch::Grpc {
            service: None,
            method,
        },
        _ => PathMatch::Grpc { service, method },
    };
    MatchSpec {
        path,
        headers: any_named(rng, false),
        ..MatchSpec::default()
    }
}

// "The largest number of: characters in a matching service, characters in a matching method, header matches."
#[test]
fn grpc_precedence() {
    let mut rng = StdRng::seed_from_u64(8);
    for round in 0..300 {
        let routes = any_routes(&mut rng, any_grpc_match);
        let table = RouteTable::compile(&routes);
        assert_eq!(table.errors(), []);
        for _ in 0..40 {
            let path = format!(
                "/{}/{}",
                SERVICES.choose(&mut rng).unwrap(),
                CALLS.choose(&mut rng).unwrap()
            );
            let request = Request {
                method: Method::POST,
                path,
                ..any_request(&mut rng)
            };
            let expected = by_words(&routes, &request, |spec| {
                let length = |part: &Option<ValueMatch>| match part {
                    Some(ValueMatch::Exact(text)) => text.len(),
                    _ => 0,
                };
                let (service, method) = match &spec.path {
                    PathMatch::Grpc { service, method } => (length(service), length(method)),
                    _ => (0, 0),
                };
                let headers = effective(&spec.headers, true).len();
                (Reverse(service), Reverse(method), Reverse(headers))
            });
            assert_eq!(
                looked_up(&table, &request),
                expected,
                "round {round}: {}",
                request.path
            );
        }
    }
}
