//! Rules by header fields see what the application is sent.

use ambit_wire::{security, waypoint as wire};
use http::{Request, StatusCode};

use super::rules::{exact, policy, rule};
use super::support::*;

async fn mesh(action: security::Action, name: &str, value: &str) -> (Mesh, Application) {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("by-header", action, |rule| {
            rule.headers = vec![wire::HeaderMatch {
                name: name.into(),
                values: vec![exact(value)],
            }];
        })],
    ));
    (mesh, application)
}

/// The status of a request with these lines, and the answer. The request after it, without a `Host`, ends the connection.
async fn ask(mesh: &Mesh, target: &str, lines: &str) -> (String, String) {
    let request =
        format!("GET {target} HTTP/1.1\r\n{lines}\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n");
    let answer = mesh.exchange(81, request).await;
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, answer)
}

#[tokio::test]
async fn an_allow_takes_no_field_that_goes_no_further() {
    let (mesh, application) = mesh(security::Action::Allow, "x-mode", "readonly").await;
    let (status, answer) = ask(&mesh, "/", "host: server\r\nx-mode: readonly").await;
    assert_eq!(status, "200", "{answer}");
    for connection in ["x-mode", "keep-alive, X-Mode", "close\r\nconnection: x-mode"] {
        let lines = format!("host: server\r\nx-mode: readonly\r\nconnection: {connection}");
        let (status, answer) = ask(&mesh, "/", &lines).await;
        assert_eq!(status, "403", "{connection}: {answer}");
    }
    assert_eq!(application.seen(), 1);
}

#[tokio::test]
async fn a_deny_does_not_look_at_a_field_that_goes_no_further() {
    let (mesh, application) = mesh(security::Action::Deny, "x-role", "admin").await;
    let (status, answer) = ask(&mesh, "/", "host: server\r\nx-role: admin").await;
    assert_eq!(status, "403", "{answer}");
    let lines = "host: server\r\nx-role: admin\r\nconnection: x-role";
    let (status, answer) = ask(&mesh, "/", lines).await;
    assert_eq!(status, "200", "{answer}");
    assert!(!answer.contains("x-role"), "{answer}");
    assert_eq!(application.seen(), 1);
}

/// Applications whose environment has fields as variables (CGI and its heirs) take both for the same.
#[tokio::test]
async fn a_deny_looks_at_names_with_underscores_too() {
    let (mesh, application) = mesh(security::Action::Deny, "x-user-role", "admin").await;
    for name in ["x-user-role", "x_user_role", "x-user_role", "X_User-Role"] {
        let (status, answer) = ask(&mesh, "/", &format!("host: server\r\n{name}: admin")).await;
        assert_eq!(status, "403", "{name}: {answer}");
    }
    assert_eq!(application.seen(), 0);
    let (status, answer) = ask(&mesh, "/", "host: server\r\nx_user_role: reader").await;
    assert_eq!(status, "200", "{answer}");
}

#[tokio::test]
async fn of_repeated_fields_all_must_be_allowed_and_none_denied() {
    let (allow, _application) = mesh(security::Action::Allow, "x-mode", "readonly").await;
    let (deny, _application) = mesh(security::Action::Deny, "x-mode", "admin").await;
    for (values, allowed, denied) in [
        (&["readonly"][..], true, false),
        (&["readonly", "readonly"], true, false),
        (&["readonly", "admin"], false, true),
        (&["admin", "readonly"], false, true),
        (&["readonly", ""], false, false),
        // One line has one value.
        (&["readonly, admin"], false, false),
        (&[], false, false),
    ] {
        for (mesh, passes) in [(&allow, allowed), (&deny, !denied)] {
            let expected = if passes {
                StatusCode::OK
            } else {
                StatusCode::FORBIDDEN
            };
            let lines: String = values.iter().map(|v| format!("\r\nx-mode: {v}")).collect();
            let (status, answer) = ask(mesh, "/", &format!("host: server{lines}")).await;
            assert_eq!(status, expected.as_str(), "{values:?}: {answer}");
            let mut request = Request::get("http://server/");
            for value in values {
                request = request.header("x-mode", *value);
            }
            let answer = mesh.http2(80).await.send(request.body(full("")).unwrap()).await;
            assert_eq!(answer.status(), expected, "{values:?}");
        }
    }
}

#[tokio::test]
async fn the_host_that_rules_see_is_the_one_that_is_sent() {
    // Of an absolute target it is the target's own, whatever the field says.
    let (mesh, application) = mesh(security::Action::Allow, "host", "server").await;
    let (status, answer) = ask(&mesh, "http://admin/", "host: server").await;
    assert_eq!(status, "403", "{answer}");
    assert_eq!(application.seen(), 0);
    let (status, answer) = ask(&mesh, "http://server/", "host: admin").await;
    assert_eq!(status, "200", "{answer}");
    assert!(answer.contains("host: server\n"), "{answer}");
    // Over HTTP/2 it has another name.
    let request = Request::get("http://server/").body(full("")).unwrap();
    assert_eq!(mesh.http2(80).await.send(request).await.status(), StatusCode::OK);
}
