//! Tricks with paths, against a rule for paths.

use ambit_wire::security;
use http::StatusCode;

use super::rules::{exact, policy, prefix, rule};
use super::support::*;

async fn mesh() -> (Mesh, Application) {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("no-admin", security::Action::Deny, |rule| {
            rule.paths = vec![prefix("/admin")];
        })],
    ));
    (mesh, application)
}

#[tokio::test]
async fn other_spellings_of_a_denied_path_are_denied() {
    let (mesh, application) = mesh().await;
    for path in [
        "/admin",
        "/admin/",
        "/admin/users?x=/../",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/%2E./admin/users",
        "/%61dmin",
        "/adm%69n/x",
        "/x//..//admin",
        "/x;/../admin",
    ] {
        let answer = mesh
            .exchange(
                80,
                format!("GET {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"),
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        assert!(
            answer.contains("x-ambit-reason: denied by shop/orders/no-admin"),
            "{path}: {answer}"
        );
    }
    assert_eq!(application.seen(), 0);
}

/// Many applications take a path with a slash at its end for the same.
#[tokio::test]
async fn an_exact_path_is_denied_with_a_slash_at_its_end_too() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("no-admin", security::Action::Deny, |rule| {
            rule.paths = vec![exact("/admin")];
        })],
    ));
    let mut client = mesh.http1(80).await;
    for path in ["/admin", "/admin/", "/admin//", "/admin/?x=y"] {
        assert_eq!(client.get(path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(application.seen(), 0);
    for path in ["/admin/users", "/administrator"] {
        assert_eq!(client.get(path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn paths_that_applications_disagree_on_are_refused() {
    let (mesh, application) = mesh().await;
    for path in [
        "/admin;x=y",
        "/admin%3bx",
        "/%2fadmin",
        "/x%2F..%2Fadmin",
        "/x/..%2fadmin",
        "/x%5c..%5cadmin",
        "/x\\..\\admin",
        "/x/..;/admin",
        "/x/%252e%252e/admin",
        "/%2561dmin",
        "/admin#x",
        "/x%00",
        "/%",
        "/%zz",
        "/../admin",
        "/%2e%2e/admin",
    ] {
        let answer = mesh
            .exchange(
                81,
                format!("GET {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"),
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn the_application_is_sent_what_came() {
    let (mesh, _application) = mesh().await;
    let mut client = mesh.http1(80).await;
    for path in [
        "/a//b/./c/../d?q=//x/../y",
        "/%41%2d%c3%a4",
        "/Admin",
        "/administrator",
        "/api/v4/projects/group%2Fproject",
        "/@scope%2fpackage",
        "/api/queues/%2F/q",
        "/page;jsessionid=1",
        "/100%25ab",
        "/",
    ] {
        let (status, _, body) = client.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(body.starts_with(&format!("GET {path}\n")), "{path}: {body}");
    }
}

#[tokio::test]
async fn without_a_rule_for_paths_they_are_passed_on_as_they_are() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    for path in ["/a//b/../c", "/x%2fy;z", "/%2e%2e"] {
        let (status, _, body) = client.get(path).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.starts_with(&format!("GET {path}\n")), "{body}");
    }
}
