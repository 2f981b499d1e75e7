use super::*;
use crate::{Action, BackendSpec, RouteName, RuleSpec};

fn route(kind: RouteKind, name: &str, hostnames: &[&str]) -> RouteSpec {
    RouteSpec {
        name: RouteName {
            kind,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
        rules: vec![RuleSpec {
            backends: vec![BackendSpec::new(name, 443)],
            ..RuleSpec::default()
        }],
    }
}

fn tls(name: &str, hostnames: &[&str]) -> RouteSpec {
    route(RouteKind::TlsRoute, name, hostnames)
}

fn names(routes: &[RouteSpec]) -> ServerNames {
    match ConnectionTable::compile(routes) {
        Some(ConnectionTable::Tls(names)) => names,
        other => panic!("{other:?}"),
    }
}

/// The name of the route that a server name leads to.
fn found(names: &ServerNames, server_name: Option<&str>) -> Option<String> {
    let plan = names.lookup(server_name)?;
    Some(plan.rule.route.name.clone())
}

#[test]
fn the_most_specific_host_name_decides_then_the_first_route() {
    let names = names(&[
        tls("wildcard", &["*.example.com", "*.Deep.example.com"]),
        tls("exact", &["a.example.com", "B.example.com"]),
        tls("later", &["a.example.com", "*.example.com", "example.org"]),
    ]);
    for (server_name, expected) in [
        ("a.example.com", Some("exact")),
        ("b.example.com", Some("exact")),
        ("c.example.com", Some("wildcard")),
        ("x.y.example.com", Some("wildcard")),
        ("x.deep.example.com", Some("wildcard")),
        ("example.org", Some("later")),
        // A wildcard stands for one label at least.
        ("example.com", None),
        ("a.example.org", None),
        ("notexample.com", None),
        (".com", None),
    ] {
        assert_eq!(
            found(&names, Some(server_name)).as_deref(),
            expected,
            "{server_name}"
        );
    }
    assert_eq!(found(&names, None), None);
}

#[test]
fn a_longer_wildcard_goes_first_and_a_route_without_names_last() {
    let names = names(&[
        tls("all", &[]),
        tls("short", &["*.com"]),
        tls("long", &["*.example.com"]),
        tls("all too", &[]),
    ]);
    assert_eq!(found(&names, Some("a.example.com")).as_deref(), Some("long"));
    assert_eq!(found(&names, Some("example.com")).as_deref(), Some("short"));
    assert_eq!(found(&names, Some("localhost")).as_deref(), Some("all"));
    assert_eq!(found(&names, None).as_deref(), Some("all"));
}

#[test]
fn the_first_tcp_route_applies_unless_there_is_a_tls_route() {
    let tcp = |name| route(RouteKind::TcpRoute, name, &[]);
    match ConnectionTable::compile(&[tcp("first"), tcp("second")]) {
        Some(ConnectionTable::Tcp(plan)) => assert_eq!(&*plan.label, "TCPRoute shop/first rules[0]"),
        other => panic!("{other:?}"),
    }
    let both = names(&[tcp("first"), tls("named", &["a.example.com"])]);
    assert_eq!(found(&both, Some("b.example.com")), None);
    let http = route(RouteKind::HttpRoute, "http", &[]);
    assert!(ConnectionTable::compile(&[http]).is_none());
}

#[test]
fn a_rule_that_cannot_be_honoured_is_not_left_out() {
    let mut heavy = route(RouteKind::TcpRoute, "heavy", &[]);
    heavy.rules[0].backends[0].weight = 1_000_001;
    let mut empty = heavy.clone();
    empty.rules.clear();
    for route in [heavy, empty] {
        match ConnectionTable::compile(&[route]) {
            Some(ConnectionTable::Tcp(plan)) => assert_eq!(plan.action, Action::Invalid),
            other => panic!("{other:?}"),
        }
    }
}
