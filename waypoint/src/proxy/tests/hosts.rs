//! Tricks with the name that a request is addressed to, against a rule for names.

use ambit_wire::security;
use http::{Request, StatusCode, Uri};

use super::rules::{exact, policy, rule};
use super::support::*;

const MALFORMED: &str = "Host is not a name or address";

async fn mesh() -> (Mesh, Application) {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("no-admin", security::Action::Deny, |rule| {
            rule.hosts = vec![exact("admin.shop")];
        })],
    ));
    (mesh, application)
}

/// Asks for `host` in each of the ways there are, and expects an answer of this status and with this reason.
async fn expect(mesh: &Mesh, host: &str, expected: StatusCode, because: &str) {
    let origin = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let old = format!("GET / HTTP/1.0\r\nhost: {host}\r\n\r\n");
    for request in [origin, old] {
        let answer = mesh.exchange(81, &request).await;
        let status = format!(
            "HTTP/1.{} {} ",
            request.find(".0\r").map_or(1, |_| 0),
            expected.as_u16()
        );
        assert!(answer.starts_with(&status), "{request:?}: {answer}");
        assert!(answer.contains(because), "{request:?}: {answer}");
    }
    for field in ["server", host] {
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nhost: {field}\r\nconnection: close\r\n\r\n");
        let answer = mesh.exchange(81, &absolute).await;
        let status = format!("HTTP/1.1 {} ", expected.as_u16());
        assert!(answer.starts_with(&status), "{absolute:?}: {answer}");
    }
    // What no client could send.
    let Ok(uri) = Uri::try_from(format!("http://{host}/")) else {
        assert_eq!(expected, StatusCode::BAD_REQUEST);
        return;
    };
    let request = Request::get(uri).body(full("")).unwrap();
    let (status, reason, _) = whole(mesh.http2(80).await.send(request).await).await;
    assert_eq!(status, expected, "{host:?} over HTTP/2: {reason}");
    assert!(reason.contains(because), "{host:?} over HTTP/2: {reason}");
}

#[tokio::test]
async fn other_spellings_of_a_denied_name_are_denied() {
    let (mesh, application) = mesh().await;
    for host in [
        "admin.shop",
        "Admin.SHOP",
        "admin.shop.",
        "admin.shop:80",
        "admin.shop:00080",
        "admin.shop:",
        "ADMIN.shop.:65535",
    ] {
        expect(
            &mesh,
            host,
            StatusCode::FORBIDDEN,
            "denied by shop/orders/no-admin",
        )
        .await;
    }
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn names_that_applications_may_take_for_others_are_refused() {
    let (mesh, application) = mesh().await;
    for host in [
        "admin.shop:x",
        "admin.shop:80x",
        "admin.shop:+80",
        "admin.shop:-1",
        "admin.shop:65536",
        "admin.shop:80:80",
        "admin.shop:x:80",
        "user@admin.shop",
        "user:80@admin.shop",
        "server:80@admin.shop:80",
        "admin.shop..",
        "admin..shop",
        ".admin.shop",
        ".",
        ":80",
        "[admin.shop]",
        "[::1]x",
        "[::1]:x",
        "[::1]:80:80",
        "[::1",
        "[::1%25eth0]",
        "::1",
        "admin.shop[::1]",
        "admin.shop:x[::1]",
        "admin%2eshop",
        "admin.shop,server",
        "admin.shop;server",
        "admin.shop*",
    ] {
        expect(&mesh, host, StatusCode::BAD_REQUEST, MALFORMED).await;
    }
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn other_names_and_addresses_pass_as_they_are() {
    let (mesh, application) = mesh().await;
    for host in [
        "server",
        "an_admin.shop",
        "xn--bcher-kva.example:8080",
        "admin.shop.svc.cluster.local.:80",
        "10.0.0.1:8080",
        "[2001:DB8::1]",
        "[::ffff:10.0.0.1]:8080",
    ] {
        expect(&mesh, host, StatusCode::OK, "").await;
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = mesh.exchange(81, request).await;
        assert!(answer.contains(&format!("host: {host}\n")), "{answer}");
    }
    assert_eq!(application.seen(), 7 * 6);
}

#[tokio::test]
async fn a_target_with_a_name_of_its_own_does_not_excuse_a_malformed_host() {
    let (mesh, application) = mesh().await;
    let request = "GET http://server/ HTTP/1.1\r\nhost: admin.shop:x\r\nconnection: close\r\n\r\n";
    let answer = mesh.exchange(81, request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains(MALFORMED), "{answer}");
    assert_eq!(application.seen(), 0);
}
