//! Requests that routes send elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ambit_wire::{security, waypoint as wire};
use http::{Request, Response, StatusCode, Version};

use super::rules::{policy, rule};
use super::support::*;
use crate::state::AppProtocol;

const ROUTE: &str = "HTTPRoute/shop/route";

pub(super) fn host(name: &str) -> String {
    format!("{name}.shop.svc.cluster.local")
}

/// An application that says who it is and what it was asked: `name METHOD authority path x-header`.
pub(super) async fn application(name: &'static str) -> Application {
    Application::start(move |request| async move {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map_or("-", |value| value.to_str().unwrap()).to_owned()
        };
        let authority = request
            .uri()
            .authority()
            .map_or_else(|| header("host"), ToString::to_string);
        let path = request.uri().path_and_query().unwrap();
        let text = format!(
            "{name} {} {authority} {path} {}",
            request.method(),
            header("x-header")
        );
        Response::builder()
            .header("x-from", name)
            .body(full(text))
            .unwrap()
    })
    .await
}

impl Mesh {
    /// A backend with one endpoint, in plaintext.
    pub(super) fn backend(&self, name: &str, to: &Application, change: impl FnOnce(&mut wire::Backend)) {
        self.backend_at(name, to.address, change);
    }

    pub(super) fn backend_at(
        &self,
        name: &str,
        address: SocketAddr,
        change: impl FnOnce(&mut wire::Backend),
    ) {
        let mut backend = wire::Backend {
            namespace: "shop".into(),
            name: name.into(),
            hostname: host(name),
            ports: vec![wire::ServicePort {
                port: 80,
                protocol: AppProtocol::Unknown.into(),
                ..Default::default()
            }],
            ..wire::Backend::default()
        };
        change(&mut backend);
        let key = format!("shop/{}", host(name));
        assert!(
            self.state
                .apply_backends(&[], [(key.clone(), backend)])
                .is_empty()
        );
        self.workload(&format!("{name}-1"), address, |workload| {
            let ports = workload.services.values().next().unwrap().clone();
            workload.services = BTreeMap::from([(key, ports)]);
        });
    }

    /// The service has this route.
    pub(super) fn route(&self, rules: Vec<wire::RouteRule>) {
        self.set_route(rules);
        self.apply_service(|service| service.routes = vec![attached("")]);
    }

    pub(super) fn set_route(&self, rules: Vec<wire::RouteRule>) {
        let route = wire::Route {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: "route".into(),
            rules,
            ..wire::Route::default()
        };
        assert!(self.state.apply_routes(&[], [(ROUTE.into(), route)]).is_empty());
    }
}

pub(super) fn attached(consumers: &str) -> wire::AttachedRoute {
    wire::AttachedRoute {
        route: ROUTE.into(),
        ports: Vec::new(),
        consumers: consumers.into(),
    }
}

pub(super) fn to(name: &str, weight: u32) -> wire::RouteBackend {
    wire::RouteBackend {
        backend: format!("shop/{}", host(name)),
        port: 80,
        weight,
        ..wire::RouteBackend::default()
    }
}

pub(super) fn rule_to(name: &str) -> wire::RouteRule {
    wire::RouteRule {
        backends: vec![to(name, 1)],
        ..wire::RouteRule::default()
    }
}

pub(super) fn prefix(path: &str) -> wire::RouteMatch {
    wire::RouteMatch {
        path: Some(wire::PathMatch {
            r#match: Some(wire::path_match::Match::Prefix(path.into())),
        }),
        ..wire::RouteMatch::default()
    }
}

fn value(name: &str, value: &str) -> wire::HeaderValue {
    wire::HeaderValue {
        name: name.into(),
        value: value.into(),
    }
}

pub(super) async fn versions() -> (Mesh, Application, Application) {
    let mesh = Mesh::new().await;
    let (one, two) = (application("v1").await, application("v2").await);
    mesh.backend("v1", &one, |_| {});
    mesh.backend("v2", &two, |_| {});
    (mesh, one, two)
}

#[tokio::test]
async fn the_most_specific_match_decides_whatever_the_order() {
    let (mesh, _one, _two) = versions().await;
    let header = wire::RouteMatch {
        headers: vec![wire::ValueMatch {
            name: "X-Header".into(),
            r#match: Some(wire::value_match::Match::Exact("two".into())),
        }],
        ..wire::RouteMatch::default()
    };
    mesh.route(vec![
        rule_to("v1"),
        wire::RouteRule {
            matches: vec![prefix("/two"), header],
            ..rule_to("v2")
        },
    ]);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/one").await.2, "v1 GET server /one -");
    assert_eq!(
        client.get("/two/more?q=1").await.2,
        "v2 GET server /two/more?q=1 -"
    );
    assert_eq!(client.get("/twofold").await.2, "v1 GET server /twofold -");
    let request = Request::get("/one")
        .header("host", "server")
        .header("x-header", "two");
    let (_, _, body) = whole(client.send(request.body(full("")).unwrap()).await).await;
    assert_eq!(body, "v2 GET server /one two");
    // The same for HTTP/2, and with a body.
    let mut client = mesh.http2(80).await;
    let request = Request::post("http://server/two").body(full("abc")).unwrap();
    let (_, _, body) = whole(client.send(request).await).await;
    assert_eq!(body, "v2 POST server /two -");
    assert_eq!(
        mesh.metric(&[
            "istio_requests_total",
            "destination_service_name=\"v2\"",
            "response_code=\"200\""
        ]),
        3
    );
}

#[tokio::test]
async fn weights_are_kept_and_a_change_moves_the_next_request() {
    let (mesh, one, two) = versions().await;
    let split = |first: u32, second: u32| {
        vec![wire::RouteRule {
            backends: vec![to("v1", first), to("v2", second)],
            ..wire::RouteRule::default()
        }]
    };
    mesh.route(split(3, 1));
    let mut client = mesh.http1(80).await;
    for _ in 0..400 {
        assert_eq!(client.get("/").await.0, StatusCode::OK);
    }
    // 5 standard deviations of 400 draws.
    assert!((257..=343).contains(&one.seen()), "{}", one.seen());
    assert_eq!(one.seen() + two.seen(), 400);

    mesh.set_route(split(0, 1));
    let before = one.seen();
    for _ in 0..20 {
        assert!(client.get("/").await.2.starts_with("v2 "));
    }
    assert_eq!(one.seen(), before);
}

#[tokio::test]
async fn what_is_not_valid_gets_500_and_what_nothing_matches_404() {
    let (mesh, one, _two) = versions().await;
    let broken = wire::RouteBackend {
        invalid: "there is no Service".into(),
        weight: 1,
        ..wire::RouteBackend::default()
    };
    mesh.route(vec![
        wire::RouteRule {
            matches: vec![prefix("/broken")],
            backends: vec![broken],
            ..wire::RouteRule::default()
        },
        wire::RouteRule {
            matches: vec![prefix("/unsupported")],
            invalid: "a filter of a later version".into(),
            ..rule_to("v1")
        },
        wire::RouteRule {
            matches: vec![prefix("/missing")],
            ..rule_to("v3")
        },
        wire::RouteRule {
            matches: vec![prefix("/nowhere")],
            ..wire::RouteRule::default()
        },
    ]);
    let mut client = mesh.http1(80).await;
    for path in ["/broken", "/unsupported", "/missing", "/nowhere"] {
        let (status, reason, _) = client.get(path).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert!(
            reason.starts_with("route: HTTPRoute shop/route rules["),
            "{reason}"
        );
    }
    let (status, reason, _) = client.get("/").await;
    assert_eq!(
        (status, &*reason),
        (StatusCode::NOT_FOUND, "route: no rule matches")
    );
    assert_eq!(one.seen(), 0);

    // Named and not there: closed.
    mesh.state.apply_routes(&[ROUTE.to_owned()], []);
    let (status, reason, _) = client.get("/").await;
    assert_eq!(
        (status, &*reason),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "route: HTTPRoute/shop/route has not been received"
        )
    );
}

#[tokio::test]
async fn requests_and_responses_are_edited() {
    let (mesh, _one, _two) = versions().await;
    let mut first = rule_to("v1");
    first.matches = vec![prefix("/old")];
    first.filters = Some(wire::RouteFilters {
        request_headers: Some(wire::HeaderEdit {
            set: vec![value("x-header", "rule")],
            ..wire::HeaderEdit::default()
        }),
        response_headers: Some(wire::HeaderEdit {
            add: vec![value("x-rule", "1")],
            remove: vec!["x-from".into()],
            ..wire::HeaderEdit::default()
        }),
        rewrite: Some(wire::Rewrite {
            hostname: "new.example".into(),
            path: Some(wire::PathModifier {
                kind: Some(wire::path_modifier::Kind::Prefix("/new".into())),
            }),
        }),
        ..wire::RouteFilters::default()
    });
    first.backends[0].filters = Some(wire::RouteFilters {
        request_headers: Some(wire::HeaderEdit {
            add: vec![value("x-header", "backend")],
            ..wire::HeaderEdit::default()
        }),
        response_headers: Some(wire::HeaderEdit {
            set: vec![value("x-backend", "1")],
            ..wire::HeaderEdit::default()
        }),
        ..wire::RouteFilters::default()
    });
    mesh.route(vec![first]);
    let mut client = mesh.http1(80).await;
    let request = Request::get("/old/a?b=c")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    let response = client.send(request).await;
    let names: Vec<bool> = ["x-rule", "x-backend", "x-from"]
        .iter()
        .map(|name| response.headers().contains_key(*name))
        .collect();
    assert_eq!(names, [true, true, false]);
    assert_eq!(whole(response).await.2, "v1 GET new.example /new/a?b=c rule");
    let mut client = mesh.http2(80).await;
    let request = Request::get("http://server/old").body(full("")).unwrap();
    assert_eq!(
        whole(client.send(request).await).await.2,
        "v1 GET new.example /new rule"
    );
}

/// A target that is not a URI is passed on as it came, but not past a rewrite.
#[tokio::test]
async fn rewritten_target_is_the_one_that_is_sent() {
    let (mesh, _one, _two) = versions().await;
    mesh.route(vec![wire::RouteRule {
        filters: Some(wire::RouteFilters {
            rewrite: Some(wire::Rewrite {
                path: Some(wire::PathModifier {
                    kind: Some(wire::path_modifier::Kind::Full("/public".into())),
                }),
                ..wire::Rewrite::default()
            }),
            ..wire::RouteFilters::default()
        }),
        ..rule_to("v1")
    }]);
    for target in ["/admin?x=\"", "/admin<", "/admin#a", "/admin`"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
        let response = mesh.exchange(80, request).await;
        assert!(response.contains("v1 GET server /public"), "{target}: {response}");
        assert!(!response.contains("admin"), "{target}: {response}");
    }
}

/// A route is no way around: the backend's own rules hold, for the request that the backend is sent.
#[tokio::test]
async fn the_rules_of_the_backend_are_asked_too() {
    let (mesh, _one, two) = versions().await;
    let denies = policy(
        "private",
        [rule("no-admin", security::Action::Deny, |rule| {
            rule.paths = vec![super::rules::prefix("/admin")];
        })],
    );
    mesh.state.apply_policies(&[], vec![denies.try_into().unwrap()]);
    mesh.backend("v2", &two, |backend| {
        backend.authorization = vec![wire::RuleSet {
            policies: vec!["shop/private".into()],
        }];
    });
    mesh.route(vec![
        rule_to("v2"),
        wire::RouteRule {
            matches: vec![prefix("/public")],
            filters: Some(wire::RouteFilters {
                rewrite: Some(wire::Rewrite {
                    path: Some(wire::PathModifier {
                        kind: Some(wire::path_modifier::Kind::Full("/admin/x".into())),
                    }),
                    ..wire::Rewrite::default()
                }),
                ..wire::RouteFilters::default()
            }),
            ..rule_to("v2")
        },
    ]);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    for path in ["/admin", "/public"] {
        let (status, reason, _) = client.get(path).await;
        assert_eq!(
            (status, &*reason),
            (StatusCode::FORBIDDEN, "denied by shop/private/no-admin"),
            "{path}"
        );
    }
    assert_eq!(two.seen(), 1);

    // A policy that it names and that is not there closes it.
    mesh.state
        .apply_policies(&["shop/private".to_owned()], Vec::new());
    assert_eq!(client.get("/").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_consumers_route_is_for_its_own_namespace() {
    let (mesh, _one, _two) = versions().await;
    let server = application("server").await;
    mesh.endpoint("server-1", server.address);
    mesh.set_route(vec![rule_to("v1")]);
    for (consumers, by) in [("other", "server "), ("shop", "v1 ")] {
        mesh.apply_service(|service| service.routes = vec![attached(consumers)]);
        let mut client = mesh.http1(80).await;
        assert!(client.get("/").await.2.starts_with(by), "{consumers}");
    }
}

#[tokio::test]
async fn a_rule_retries_and_times_out() {
    let mesh = Mesh::new().await;
    let failing = Application::start(|request| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        Response::builder().status(500).body(full("")).unwrap()
    })
    .await;
    mesh.backend("v1", &failing, |_| {});
    mesh.route(vec![wire::RouteRule {
        retry: Some(wire::RouteRetry {
            codes: vec![500],
            attempts: Some(2),
            backoff: Some(prost_types::Duration {
                seconds: 0,
                nanos: 1_000_000,
            }),
        }),
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 300_000_000,
        }),
        ..rule_to("v1")
    }]);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failing.seen(), 3);
    let (status, reason, _) = client.get("/slow").await;
    assert_eq!(
        (status, &*reason),
        (
            StatusCode::GATEWAY_TIMEOUT,
            "timeout: HTTPRoute shop/route rules[0] 300ms"
        )
    );
}

/// A value that is too long for a pattern is refused: it is no way around the rule.
#[tokio::test]
async fn what_is_too_long_for_a_pattern_is_refused() {
    let (mesh, one, _two) = versions().await;
    let pattern = || Some(wire::value_match::Match::Regex("b.*".into()));
    let header = wire::RouteMatch {
        headers: vec![wire::ValueMatch {
            name: "x-header".into(),
            r#match: pattern(),
        }],
        ..wire::RouteMatch::default()
    };
    let path = wire::RouteMatch {
        path: Some(wire::PathMatch {
            r#match: Some(wire::path_match::Match::Regex("/b.*".into())),
        }),
        ..wire::RouteMatch::default()
    };
    mesh.route(vec![
        wire::RouteRule {
            matches: vec![header, path],
            ..rule_to("v2")
        },
        rule_to("v1"),
    ]);
    let long = "b".repeat(8193);
    let mut client = mesh.http1(80).await;
    for (path, header, status) in [
        (format!("/{long}"), "c", StatusCode::URI_TOO_LONG),
        (
            "/".to_owned(),
            &*long,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
    ] {
        let request = Request::get(path)
            .header("host", "server")
            .header("x-header", header);
        let response = client.try_send(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        client = mesh.http1(80).await;
    }
    assert_eq!(client.get("/c").await.2, "v1 GET server /c -");
    assert_eq!(one.seen(), 1);
}

/// What a rule does not say is the policy's.
#[tokio::test]
async fn a_rule_with_a_timeout_alone_keeps_the_retries_of_the_policy() {
    let mesh = Mesh::new().await;
    let failing =
        Application::start(|_| async { Response::builder().status(503).body(full("")).unwrap() }).await;
    mesh.backend("v1", &failing, |_| {});
    mesh.set_route(vec![wire::RouteRule {
        backend_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..rule_to("v1")
    }]);
    let retries = wire::Policy {
        retry: Some(wire::Retry {
            attempts: 2,
            status_codes: vec![503],
            ..wire::Retry::default()
        }),
        ..policy("retries", [])
    };
    mesh.state.apply_policies(&[], vec![retries.try_into().unwrap()]);
    mesh.apply_service(|service| {
        service.routes = vec![attached("")];
        service.retry = "shop/retries".into();
    });
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failing.seen(), 3);
}

#[tokio::test]
async fn copies_go_to_mirrors_and_their_responses_nowhere() {
    let (mesh, _one, two) = versions().await;
    let mirror = |numerator: u32| wire::Mirror {
        backend: format!("shop/{}", host("v2")),
        port: 80,
        numerator,
        denominator: 100,
    };
    let mut mirrored = rule_to("v1");
    mirrored.filters = Some(wire::RouteFilters {
        mirrors: vec![mirror(100), mirror(0)],
        ..wire::RouteFilters::default()
    });
    mesh.route(vec![mirrored]);
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/a").await.2, "v1 GET server /a -");
    let request = Request::post("/b")
        .header("host", "server")
        .body(full("body"))
        .unwrap();
    assert_eq!(whole(client.send(request).await).await.2, "v1 POST server /b -");
    let mut client = mesh.http2(80).await;
    let request = Request::get("http://server/c").body(full("")).unwrap();
    assert_eq!(whole(client.send(request).await).await.2, "v1 GET server /c -");
    let arrived = async {
        while two.seen() < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, arrived).await.unwrap();
    assert_eq!(two.seen(), 3);
}

#[tokio::test]
async fn copy_is_sent_over_the_version_of_http_that_its_mirror_takes() {
    let (mesh, _one, _two) = versions().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let application = Application::start(move |request| {
        told.send((request.version(), request.uri().path().to_owned()))
            .unwrap();
        async { Response::new(full("")) }
    })
    .await;
    mesh.backend("copies", &application, |backend| {
        backend.ports[0].protocol = AppProtocol::Http2.into();
    });
    let mut mirrored = rule_to("v1");
    mirrored.filters = Some(wire::RouteFilters {
        mirrors: vec![wire::Mirror {
            backend: format!("shop/{}", host("copies")),
            port: 80,
            numerator: 1,
            denominator: 1,
        }],
        ..wire::RouteFilters::default()
    });
    mesh.route(vec![mirrored]);
    assert_eq!(mesh.http1(80).await.get("/a").await.2, "v1 GET server /a -");
    let copy = tokio::time::timeout(WAIT, heard.recv()).await.unwrap();
    assert_eq!(copy, Some((Version::HTTP_2, "/a".to_owned())));
}
