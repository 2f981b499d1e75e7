//! Policies for a part of a service's requests: those of a route, of one of its rules, or of a port.

use std::sync::Arc;

use ambit_wire::{features, security, waypoint as wire};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::routes::{application, attached, prefix, rule_to, versions};
use super::rules::{policy, rule};
use super::support::*;
use super::upgrades::{ends, goes_on, open, shouting, shouting_raw};

/// Policies of these names, set by set.
fn scoped(sets: &[&[&str]]) -> Option<wire::ScopedPolicies> {
    let full = |name: &&str| format!("shop/{name}");
    let sets = sets.iter().map(|set| wire::RuleSet {
        policies: set.iter().map(full).collect(),
    });
    Some(wire::ScopedPolicies {
        authorization: sets.collect(),
        ..wire::ScopedPolicies::default()
    })
}

fn methods(name: &str, action: security::Action, methods: &[&str]) -> wire::Policy {
    let methods = methods.iter().map(ToString::to_string).collect();
    policy(name, [rule("some", action, |rule| rule.methods = methods)])
}

fn deny(name: &str, method: &str) -> wire::Policy {
    methods(name, security::Action::Deny, &[method])
}

fn allow(name: &str, list: &[&str]) -> wire::Policy {
    methods(name, security::Action::Allow, list)
}

/// What `GET /` and the like get: the status, and the reason for it.
async fn ask(client: &mut Http1Client, method: &str, path: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "server");
    let (status, reason, _) = whole(client.send(request.body(full("")).unwrap()).await).await;
    (status.as_u16(), reason)
}

fn denied(by: &str) -> (u16, String) {
    (403, format!("denied by shop/{by}/some"))
}

fn not_allowed(by: &str) -> (u16, String) {
    (403, format!("not allowed by any of shop/{by}/some"))
}

const PASSED: (u16, String) = (200, String::new());

impl Mesh {
    fn set_policies(&self, policies: impl IntoIterator<Item = wire::Policy>) {
        let policies = policies.into_iter().map(|policy| policy.try_into().unwrap());
        self.state.apply_policies(&[], policies.collect());
    }
}

#[tokio::test]
async fn a_policy_of_a_rule_is_for_its_requests_and_beside_those_of_the_service() {
    let (mesh, one, _two) = versions().await;
    mesh.set_policies([
        allow("service", &["GET", "PUT", "DELETE"]),
        allow("route", &["GET", "DELETE", "POST"]),
        deny("rule", "DELETE"),
    ]);
    mesh.set_route(vec![
        wire::RouteRule {
            matches: vec![prefix("/a")],
            policies: scoped(&[&["route"], &["rule"]]),
            ..rule_to("v1")
        },
        rule_to("v2"),
    ]);
    mesh.apply_service(|service| {
        service.routes = vec![attached("")];
        service.authorization = vec!["shop/service".into()];
    });
    let mut client = mesh.http1(80).await;
    assert_eq!(ask(&mut client, "GET", "/a").await, PASSED);
    assert_eq!(ask(&mut client, "DELETE", "/a").await, denied("rule"));
    assert_eq!(ask(&mut client, "PUT", "/a").await, not_allowed("route"));
    // What the route allows, and the service does not.
    assert_eq!(ask(&mut client, "POST", "/a").await, not_allowed("service"));
    // Another rule of the same route.
    assert_eq!(ask(&mut client, "DELETE", "/b").await, PASSED);
    assert_eq!(one.seen(), 1);
    assert_eq!(mesh.metric(&["ambit_requests_denied_total", "shop/rule/some"]), 1);

    // The policy changes, and the route does not.
    mesh.set_policies([deny("rule", "GET")]);
    assert_eq!(ask(&mut client, "GET", "/a").await, denied("rule"));
    assert_eq!(ask(&mut client, "DELETE", "/a").await, PASSED);
    // One that is named and not there closes the rule, and nothing else.
    mesh.state.apply_policies(&["shop/rule".to_owned()], Vec::new());
    assert_eq!(ask(&mut client, "GET", "/a").await.0, 403);
    assert_eq!(ask(&mut client, "GET", "/b").await, PASSED);
}

#[tokio::test]
async fn the_nearest_timeout_and_retries_count_and_those_of_the_route_before_all() {
    let mesh = Mesh::new().await;
    let failing = Application::start(|request| async move {
        if request.uri().path().ends_with("slow") {
            std::future::pending::<()>().await;
        }
        Response::builder().status(503).body(full("")).unwrap()
    })
    .await;
    mesh.backend("v1", &failing, |_| {});
    let millis = |millis: i32| prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    };
    let parts = |name: &str, timeout: i32, attempts: u32| wire::Policy {
        timeout: Some(millis(timeout)),
        retry: Some(wire::Retry {
            attempts,
            status_codes: vec![503],
            ..wire::Retry::default()
        }),
        ..policy(name, [])
    };
    mesh.set_policies([
        parts("service", 301, 1),
        parts("port", 302, 2),
        parts("rule", 303, 3),
    ]);
    let of_rule = wire::ScopedPolicies {
        timeout: "shop/rule".into(),
        retry: "shop/rule".into(),
        ..wire::ScopedPolicies::default()
    };
    mesh.set_route(vec![
        wire::RouteRule {
            matches: vec![prefix("/rule")],
            policies: Some(of_rule.clone()),
            ..rule_to("v1")
        },
        wire::RouteRule {
            matches: vec![prefix("/own")],
            policies: Some(of_rule),
            timeout: Some(millis(304)),
            retry: Some(wire::RouteRetry {
                codes: vec![503],
                attempts: Some(4),
                backoff: Some(millis(1)),
            }),
            ..rule_to("v1")
        },
        rule_to("v1"),
    ]);
    mesh.apply_service(|service| {
        service.routes = vec![attached("")];
        (service.timeout, service.retry) = ("shop/service".into(), "shop/service".into());
        service.ports[0].policies = Some(wire::ScopedPolicies {
            timeout: "shop/port".into(),
            retry: "shop/port".into(),
            ..wire::ScopedPolicies::default()
        });
        service.requires = vec![features::SCOPED_POLICIES.into()];
    });
    for (port, path, by, millis, attempts) in [
        (81, "/", "shop/service", 301, 1),
        (80, "/", "shop/port", 302, 2),
        (80, "/rule", "shop/rule", 303, 3),
        (80, "/own", "HTTPRoute shop/route rules[1]", 304, 4),
    ] {
        let mut client = mesh.http1(port).await;
        let before = failing.seen();
        assert_eq!(client.get(path).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failing.seen() - before, 1 + attempts, "{by}");
        let (status, reason, _) = client.get(&format!("{path}/slow")).await;
        assert_eq!(
            (status, reason),
            (StatusCode::GATEWAY_TIMEOUT, format!("timeout: {by} {millis}ms"))
        );
    }
}

/// Zero says that there is none (GEP-1742).
#[tokio::test]
async fn a_rule_without_a_timeout_has_none_whatever_the_policy_says() {
    let mesh = Mesh::new().await;
    let slow = Application::start(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Response::new(full("late"))
    })
    .await;
    mesh.backend("v1", &slow, |_| {});
    let short = wire::Policy {
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 50_000_000,
        }),
        ..policy("short", [])
    };
    mesh.set_policies([short]);
    mesh.set_route(vec![
        wire::RouteRule {
            matches: vec![prefix("/none")],
            timeout: Some(prost_types::Duration::default()),
            ..rule_to("v1")
        },
        rule_to("v1"),
    ]);
    mesh.apply_service(|service| {
        service.routes = vec![attached("")];
        service.timeout = "shop/short".into();
    });
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/none").await.2, "late");
    assert_eq!(client.get("/").await.0, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_policy_of_a_port_is_for_that_port_of_services_and_of_backends() {
    let (mesh, _one, two) = versions().await;
    let server = application("server").await;
    mesh.endpoint("server-1", server.address);
    mesh.set_policies([deny("port", "DELETE")]);
    mesh.apply_service(|service| service.ports[0].policies = scoped(&[&["port"]]));
    assert_eq!(
        ask(&mut mesh.http1(80).await, "DELETE", "/").await,
        denied("port")
    );
    assert_eq!(ask(&mut mesh.http1(80).await, "GET", "/").await, PASSED);
    assert_eq!(ask(&mut mesh.http1(81).await, "DELETE", "/").await, PASSED);

    mesh.backend("v2", &two, |backend| {
        backend.ports[0].policies = scoped(&[&["port"]])
    });
    mesh.route(vec![rule_to("v2")]);
    assert_eq!(
        ask(&mut mesh.http1(80).await, "DELETE", "/").await,
        denied("port")
    );
    assert_eq!(ask(&mut mesh.http1(80).await, "GET", "/").await, PASSED);
}

/// A consumer's route replaces the routes of the service, and not the rules for these; also where it sends what they
/// match under another path.
#[tokio::test]
async fn a_consumers_route_is_no_way_around_the_policies_of_the_services_routes() {
    let (mesh, _one, _two) = versions().await;
    mesh.set_policies([deny("admin", "GET"), deny("consumers", "PUT")]);
    mesh.set_route(vec![
        wire::RouteRule {
            matches: vec![prefix("/admin")],
            policies: scoped(&[&["admin"]]),
            ..rule_to("v1")
        },
        rule_to("v1"),
    ]);
    let to_self = |rewritten: Option<&str>| {
        let mut rule = rule_to("server");
        rule.policies = scoped(&[&["consumers"]]);
        rule.filters = rewritten.map(|path| wire::RouteFilters {
            rewrite: Some(wire::Rewrite {
                path: Some(wire::PathModifier {
                    kind: Some(wire::path_modifier::Kind::Prefix(path.into())),
                }),
                ..wire::Rewrite::default()
            }),
            ..wire::RouteFilters::default()
        });
        rule
    };
    let consumers = wire::Route {
        kind: "HTTPRoute".into(),
        namespace: "consumer".into(),
        name: "own".into(),
        rules: vec![
            wire::RouteRule {
                matches: vec![prefix("/renamed")],
                ..to_self(Some("/admin"))
            },
            to_self(None),
        ],
        ..wire::Route::default()
    };
    let name = "HTTPRoute/consumer/own";
    assert!(
        mesh.state
            .apply_routes(&[], [(name.into(), consumers)])
            .is_empty()
    );
    let server = application("server").await;
    mesh.backend("server", &server, |_| {});
    mesh.apply_service(|service| {
        service.routes = vec![
            attached(""),
            wire::AttachedRoute {
                route: name.into(),
                ports: Vec::new(),
                consumers: "shop".into(),
            },
        ];
    });
    let mut client = mesh.http1(80).await;
    assert_eq!(ask(&mut client, "GET", "/").await, PASSED);
    assert_eq!(ask(&mut client, "PUT", "/").await, denied("consumers"));
    for path in ["/admin", "/renamed"] {
        assert_eq!(ask(&mut client, "GET", path).await, denied("admin"), "{path}");
    }
    assert_eq!(server.seen(), 1);
}

/// A waypoint may serve Services of several namespaces, and a route of one may send requests to another.
#[tokio::test]
async fn a_route_of_another_namespace_is_no_way_around_the_policies_of_the_backends_routes() {
    let (mesh, one, _two) = versions().await;
    mesh.set_policies([deny("admin", "GET")]);
    let own = wire::Route {
        kind: "HTTPRoute".into(),
        namespace: "other".into(),
        name: "own".into(),
        rules: vec![
            wire::RouteRule {
                matches: vec![prefix("/admin")],
                policies: scoped(&[&["admin"]]),
                ..rule_to("v1")
            },
            rule_to("v1"),
        ],
        ..wire::Route::default()
    };
    let name = "HTTPRoute/other/own";
    assert!(mesh.state.apply_routes(&[], [(name.into(), own)]).is_empty());
    let mut served = mesh.service.clone();
    served.namespace = "other".into();
    served.name = "v1".into();
    served.hostname = super::routes::host("v1");
    served.addresses.clear();
    served.routes = vec![wire::AttachedRoute {
        route: name.into(),
        ports: Vec::new(),
        consumers: String::new(),
    }];
    let key = format!("other/{}", served.hostname);
    let backend = wire::Backend {
        namespace: "other".into(),
        name: "v1".into(),
        hostname: served.hostname.clone(),
        ports: served.ports.clone(),
        ..wire::Backend::default()
    };
    assert!(mesh.state.apply_services(&[], [(key.clone(), served)]).is_empty());
    assert!(
        mesh.state
            .apply_backends(&[], [(key.clone(), backend)])
            .is_empty()
    );
    mesh.workload("v1-1", one.address, |workload| {
        let ports = workload.services.values().next().unwrap().clone();
        workload.services = [(key.clone(), ports)].into();
    });
    let mut rule = rule_to("v1");
    rule.backends[0].backend = key;
    mesh.route(vec![rule]);
    let mut client = mesh.http1(80).await;
    assert_eq!(ask(&mut client, "GET", "/").await, PASSED);
    assert_eq!(ask(&mut client, "GET", "/admin").await, denied("admin"));
    assert_eq!(one.seen(), 1);
}

#[tokio::test]
async fn what_is_not_http_has_to_pass_the_rules_of_all_routes_of_the_port() {
    let (mesh, _one, _two) = versions().await;
    let gone = Arc::new(Semaphore::new(0));
    let raw = shouting_raw(&gone).await;
    mesh.endpoint("server-1", raw);
    mesh.set_policies([deny("rule", "DELETE")]);
    mesh.set_route(vec![
        wire::RouteRule {
            matches: vec![prefix("/a")],
            policies: scoped(&[&["rule"]]),
            ..rule_to("v1")
        },
        rule_to("v2"),
    ]);
    mesh.apply_service(|service| {
        service.routes = vec![wire::AttachedRoute {
            ports: vec![80],
            ..attached("")
        }];
    });
    let said = async |port: u16| {
        let mut io = mesh.connect(port).await;
        io.write_all(b"\x01abc").await.unwrap();
        let mut heard = [0; 4];
        io.read_exact(&mut heard).await.map(|_| heard).ok()
    };
    assert_eq!(said(80).await, None);
    assert_eq!(said(9000).await, Some(*b"\x01ABC"), "a port without the route");
    mesh.state
        .apply_policies(&[], vec![policy("rule", []).try_into().unwrap()]);
    assert_eq!(said(80).await, Some(*b"\x01ABC"));

    // Whether policies are for a route that has not come, nobody knows.
    mesh.apply_service(|service| {
        service.routes = vec![wire::AttachedRoute {
            route: "HTTPRoute/shop/late".into(),
            ports: vec![80],
            ..attached("")
        }];
    });
    assert_eq!(said(80).await, None);
    assert_eq!(said(9000).await, Some(*b"\x01ABC"), "a port without the route");
}

/// An open WebSocket ends when the policy of its route denies it, and not by that of another.
#[tokio::test]
async fn a_websocket_is_held_against_the_policies_of_its_route() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.backend("v1", &application, |_| {});
    let nothing = |name: &str| policy(name, []);
    mesh.set_policies([nothing("own"), nothing("other")]);
    mesh.route(vec![
        wire::RouteRule {
            matches: vec![prefix("/chat")],
            policies: scoped(&[&["own"]]),
            ..rule_to("v1")
        },
        wire::RouteRule {
            policies: scoped(&[&["other"]]),
            ..rule_to("v1")
        },
    ]);
    let mut socket = open(&mesh).await;
    mesh.set_policies([deny("other", "GET")]);
    goes_on(&mut socket).await;
    mesh.set_policies([deny("own", "GET")]);
    ends(&mut socket, &gone).await;
}
