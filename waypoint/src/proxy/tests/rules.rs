//! Who may do what.

use std::net::SocketAddr;

use ambit_policy::{Action, Policy, PolicyName, Scope};
use ambit_wire::{security, waypoint as wire};
use http::{Request, StatusCode};
use tokio::io::AsyncWriteExt;

use super::support::*;

pub(super) fn exact(text: &str) -> security::StringMatch {
    security::StringMatch {
        match_type: Some(security::string_match::MatchType::Exact(text.into())),
    }
}

pub(super) fn prefix(text: &str) -> security::StringMatch {
    security::StringMatch {
        match_type: Some(security::string_match::MatchType::Prefix(text.into())),
    }
}

pub(super) fn rule(name: &str, action: security::Action, change: impl FnOnce(&mut wire::Rule)) -> wire::Rule {
    let mut rule = wire::Rule {
        name: name.into(),
        action: action.into(),
        ..wire::Rule::default()
    };
    change(&mut rule);
    rule
}

pub(super) fn policy(name: &str, rules: impl IntoIterator<Item = wire::Rule>) -> wire::Policy {
    wire::Policy {
        namespace: "shop".into(),
        name: name.into(),
        authorization: rules.into_iter().collect(),
        ..wire::Policy::default()
    }
}

fn no_deletes() -> wire::Policy {
    policy(
        "orders",
        [rule("no-deletes", security::Action::Deny, |rule| {
            rule.methods = vec!["DELETE".into()];
        })],
    )
}

#[tokio::test]
async fn a_denied_request_is_told_the_rule_and_does_not_reach_the_application() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(no_deletes());
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/orders").await.0, StatusCode::OK);
    let delete = || {
        Request::delete("/orders")
            .header("host", "server")
            .body(full("x"))
            .unwrap()
    };
    let (status, reason, body) = whole(client.send(delete()).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(reason, "denied by shop/orders/no-deletes");
    assert_eq!(body, "denied by shop/orders/no-deletes\n");
    assert_eq!(application.seen(), 1);
    assert_eq!(
        mesh.metric(&["ambit_requests_denied_total", "shop/orders/no-deletes"]),
        1
    );
    // The same connection and the same rules over HTTP/2.
    let mut client = mesh.http2(80).await;
    let delete = Request::delete("http://server/orders").body(full("")).unwrap();
    let (status, reason, _) = whole(client.send(delete).await).await;
    assert_eq!(
        (status, reason.as_str()),
        (StatusCode::FORBIDDEN, "denied by shop/orders/no-deletes")
    );
}

/// Two Services lead to the same pods: what one's rules allow is not enough where the other's do not.
#[tokio::test]
async fn rules_of_other_services_of_the_same_pods_hold_too() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let allows = |name: &str, methods: &[&str]| {
        let methods = methods.iter().map(ToString::to_string).collect();
        policy(
            name,
            [rule("some", security::Action::Allow, |rule| {
                rule.methods = methods
            })],
        )
    };
    for (name, methods) in [("own", ["GET", "PUT"]), ("other", ["GET", "POST"])] {
        let policy = allows(name, &methods).try_into().unwrap();
        mesh.state.apply_policies(&[], vec![policy]);
    }
    let set = |policy: &str| wire::RuleSet {
        policies: vec![format!("shop/{policy}")],
    };
    let ask = async |method: &str| {
        let request =
            format!("{method} / HTTP/1.1\r\nhost: server\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        mesh.exchange(81, request).await[9..12].to_owned()
    };
    for (own, others, get, put, post) in [
        // Without rules of its own, as a second Service of the same pods has none.
        (None, ["other"].as_slice(), "200", "403", "200"),
        (Some("own"), &["other"], "200", "403", "403"),
        (Some("own"), &[], "200", "200", "403"),
        // One that has not come.
        (Some("own"), &["other", "late"], "403", "403", "403"),
    ] {
        mesh.apply_service(|service| {
            service.authorization = own.map(|own| format!("shop/{own}")).into_iter().collect();
            service.others = others.iter().map(|policy| set(policy)).collect();
            service.requires = vec![ambit_wire::features::RULE_SETS.into()];
        });
        let seen = (ask("GET").await, ask("PUT").await, ask("POST").await);
        assert_eq!(seen, (get.into(), put.into(), post.into()), "{own:?} {others:?}");
    }
}

#[tokio::test]
async fn a_denied_method_is_denied_in_every_spelling_and_an_allowed_one_is_allowed_in_its_own() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(no_deletes());
    let ask = async |method: &str| {
        let request = format!("{method} /orders HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
        mesh.exchange(81, request).await
    };
    for method in ["DELETE", "delete", "Delete"] {
        let answer = ask(method).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{method}: {answer}");
        assert!(
            answer.contains("x-ambit-reason: denied by shop/orders/no-deletes"),
            "{method}: {answer}"
        );
    }
    assert_eq!(application.seen(), 0);
    mesh.policy(policy(
        "orders",
        [rule("readers", security::Action::Allow, |rule| {
            rule.methods = vec!["GET".into()];
        })],
    ));
    let answer = ask("GET").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = ask("get").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(application.seen(), 1);
}

#[tokio::test]
async fn where_rules_allow_nothing_else_may_pass() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("readers", security::Action::Allow, |rule| {
            rule.from = vec![wire::Source {
                principals: vec![exact(CLIENT)],
                ..wire::Source::default()
            }];
            rule.methods = vec!["GET".into()];
        })],
    ));
    let mut client = mesh.http1(80).await;
    assert_eq!(client.get("/").await.0, StatusCode::OK);
    let post = Request::post("/")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    let (status, reason, _) = whole(client.send(post).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(reason, "not allowed by any of shop/orders/readers");
}

#[tokio::test]
async fn no_header_makes_a_caller_somebody_else() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("admins", security::Action::Allow, |rule| {
            rule.from = vec![wire::Source {
                principals: vec![exact("cluster.local/ns/shop/sa/admin")],
                ..wire::Source::default()
            }];
        })],
    ));
    let request = Request::get("/")
        .header("host", "server")
        .header(
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/shop/sa/admin",
        )
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-envoy-peer-metadata-id", "admin")
        .body(full(""))
        .unwrap();
    let (status, ..) = whole(mesh.http1(80).await.send(request).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn a_rule_on_audit_counts_and_denies_nothing() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut audited = no_deletes();
    audited.authorization[0].audit = true;
    mesh.policy(audited);
    let delete = Request::delete("/orders")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    assert_eq!(mesh.http1(80).await.send(delete).await.status(), StatusCode::OK);
    assert_eq!(mesh.metric(&["ambit_audit", "shop/orders/no-deletes"]), 1);
}

#[tokio::test]
async fn a_changed_policy_is_in_force_for_the_next_request_of_an_open_connection() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    let mut delete = async || {
        let request = Request::delete("/")
            .header("host", "server")
            .body(full(""))
            .unwrap();
        whole(client.send(request).await).await.0
    };
    assert_eq!(delete().await, StatusCode::OK);
    mesh.policy(no_deletes());
    assert_eq!(delete().await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn policies_for_connections_hold_for_the_real_client() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.state.apply_authorizations(
        &[],
        vec![Policy {
            name: PolicyName {
                namespace: "shop".into(),
                name: "nobody-from-here".into(),
            },
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: vec![ambit_policy::Rule(vec![ambit_policy::Clause(vec![
                ambit_policy::Match {
                    source_ips: vec!["127.0.0.0/8".parse().unwrap()],
                    principals: vec![ambit_policy::StringMatch::Exact(CLIENT.into())],
                    ..ambit_policy::Match::default()
                },
            ])])],
            audit: false,
        }],
    );
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(reason, "denied by shop/nobody-from-here");
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn grpc_is_denied_in_its_own_way() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("no-echo", security::Action::Deny, |rule| {
            rule.paths = vec![exact("/echo.Echo/Call")];
        })],
    ));
    let call = Request::post("http://server/echo.Echo/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(full("\0\0\0\0\0"))
        .unwrap();
    let answer = mesh.http2(8080).await.send(call).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["grpc-status"], "7");
    assert_eq!(answer.headers()["grpc-message"], "denied by shop/orders/no-echo");
    assert_eq!(
        answer.headers()["x-ambit-reason"],
        "denied by shop/orders/no-echo"
    );
}

#[tokio::test]
async fn connections_that_are_no_http_pass_only_rules_that_need_none() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, _| {
        tcp.write_all(b"hello").await.unwrap();
    })
    .await;
    mesh.endpoint("server-1", address);
    assert_eq!(mesh.exchange(9000, "").await, "hello");
    mesh.counts(&["istio_tcp_connections_closed_total"], 1).await;
    mesh.policy(no_deletes());
    assert_eq!(mesh.exchange(9000, "").await, "");
    assert_eq!(
        mesh.metric(&["ambit_requests_denied_total", "shop/orders/no-deletes"]),
        1
    );
}

#[tokio::test]
async fn pods_cannot_be_reached_past_the_rules_of_their_service() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(no_deletes());
    for address in [application.address, SocketAddr::new(VIP.parse().unwrap(), 7)] {
        let error = mesh.open(address).await.unwrap_err();
        assert!(
            matches!(
                error,
                ambit_hbone::OpenError::Refused {
                    status: StatusCode::NOT_FOUND,
                    ..
                }
            ),
            "{address}: {error}"
        );
    }
    // Where connections to the pod itself come through the waypoint, it serves them.
    mesh.workload("server-1", application.address, |workload| {
        workload.waypoint = Some(Default::default());
    });
    assert!(mesh.open(application.address).await.is_ok());
}
