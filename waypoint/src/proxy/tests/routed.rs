//! Requests that a route responds to itself.

use ambit_wire::waypoint as wire;
use http::{Request, StatusCode};

use super::routes::{prefix, rule_to, versions};
use super::support::*;

#[tokio::test]
async fn redirects_and_preflights_are_responded_to_here() {
    let (mesh, one, _two) = versions().await;
    mesh.route(vec![
        wire::RouteRule {
            matches: vec![prefix("/moved")],
            filters: Some(wire::RouteFilters {
                redirect: Some(wire::Redirect {
                    scheme: "https".into(),
                    hostname: "shop.example".into(),
                    status: 308,
                    ..wire::Redirect::default()
                }),
                ..wire::RouteFilters::default()
            }),
            ..wire::RouteRule::default()
        },
        wire::RouteRule {
            cors: Some(wire::Cors {
                allow_origins: vec!["https://page.example".into()],
                allow_methods: vec!["PUT".into()],
                ..wire::Cors::default()
            }),
            ..rule_to("v1")
        },
    ]);
    let mut client = mesh.http1(80).await;
    let request = Request::get("/moved/a?b")
        .header("host", "server:80")
        .body(full(""))
        .unwrap();
    let response = client.send(request).await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()["location"], "https://shop.example/moved/a?b");
    whole(response).await;
    let preflight = Request::options("/")
        .header("host", "server")
        .header("origin", "https://page.example")
        .header("access-control-request-method", "PUT")
        .body(full(""))
        .unwrap();
    let response = client.send(preflight).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(response.headers()["access-control-allow-methods"], "PUT");
    whole(response).await;
    assert_eq!(one.seen(), 0);
    let request = Request::get("/")
        .header("host", "server")
        .header("origin", "https://page.example");
    let response = client.send(request.body(full("")).unwrap()).await;
    assert_eq!(
        response.headers()["access-control-allow-origin"],
        "https://page.example"
    );
    assert_eq!(whole(response).await.0, StatusCode::OK);
}

/// What a browser needs to read the status, and what the rule adds, is on responses of the waypoint itself, too.
#[tokio::test]
async fn responses_from_here_are_edited_as_those_of_backends_are() {
    let (mesh, _one, _two) = versions().await;
    let cors = wire::Cors {
        allow_origins: vec!["https://page.example".into()],
        ..wire::Cors::default()
    };
    let marked = wire::HeaderEdit {
        set: vec![wire::HeaderValue {
            name: "x-marked".into(),
            value: "yes".into(),
        }],
        ..wire::HeaderEdit::default()
    };
    mesh.route(vec![
        wire::RouteRule {
            matches: vec![prefix("/moved")],
            cors: Some(cors.clone()),
            filters: Some(wire::RouteFilters {
                response_headers: Some(marked),
                redirect: Some(wire::Redirect {
                    scheme: "https".into(),
                    ..wire::Redirect::default()
                }),
                ..wire::RouteFilters::default()
            }),
            ..wire::RouteRule::default()
        },
        wire::RouteRule {
            matches: vec![prefix("/none")],
            cors: Some(cors),
            ..wire::RouteRule::default()
        },
    ]);
    let mut client = mesh.http1(80).await;
    for (path, status) in [
        ("/moved", StatusCode::FOUND),
        ("/none", StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let request = Request::get(path)
            .header("host", "server")
            .header("origin", "https://page.example");
        let response = client.send(request.body(full("")).unwrap()).await;
        assert_eq!(response.status(), status);
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], "https://page.example");
        assert_eq!(headers.contains_key("x-marked"), path == "/moved");
        whole(response).await;
    }
}

/// The API: an empty `path` leaves the path as it is.
#[tokio::test]
async fn redirect_without_a_path_keeps_the_path_as_it_was_written() {
    let (mesh, _one, _two) = versions().await;
    mesh.route(vec![wire::RouteRule {
        filters: Some(wire::RouteFilters {
            redirect: Some(wire::Redirect {
                scheme: "https".into(),
                ..wire::Redirect::default()
            }),
            ..wire::RouteFilters::default()
        }),
        ..wire::RouteRule::default()
    }]);
    let request = "GET /a//b/./%41?c HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    let response = mesh.exchange(80, request).await;
    assert!(
        response.contains("location: https://server/a//b/./%41?c\r\n"),
        "{response}"
    );
}
