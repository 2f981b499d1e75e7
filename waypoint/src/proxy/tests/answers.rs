//! Requests that are passed on, and the waypoint's own answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_wire::{security, waypoint as wire};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::mpsc::UnboundedSender;

use super::retries::retry;
use super::rules::{exact, policy, rule};
use super::support::*;

pub(super) fn millis(millis: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(millis).try_into().ok()
}

#[tokio::test]
async fn a_request_goes_through_hbone_on_both_sides() {
    let mesh = Mesh::new().await;
    let ip = own_address();
    let application = Application::start_at(ip, echo).await;
    let ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let mut client = mesh.http1(80).await;
    for number in 1..=3 {
        let (status, _, body) = client.get(&format!("/orders?n={number}")).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, format!("GET /orders?n={number}\nhost: server\n\n"));
    }
    assert_eq!(*ztunnel.peers.lock(), [id("waypoint")]);
    // One connection for all of them.
    assert_eq!(application.connections.load(Ordering::SeqCst), 1);
    let requests = [
        "istio_requests_total",
        "response_code=\"200\"",
        "reporter=\"waypoint\"",
    ];
    assert_eq!(mesh.metric(&requests), 3);
}

#[tokio::test]
async fn another_workload_at_the_endpoint_is_not_spoken_to() {
    let mesh = Mesh::new().await;
    let application = Application::start_at(own_address(), echo).await;
    let _ztunnel = mesh.hbone_endpoint("somebody-else", application.address).await;
    mesh.remove("somebody-else");
    mesh.workload("server-1", application.address, |workload| {
        workload.set_tunnel_protocol(ambit_wire::workload::TunnelProtocol::Hbone);
    });
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(
        (status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "upstream: TLS failed")
    );
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn heads_are_passed_on_without_what_is_for_the_hop() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let request = Request::get("http://Server.shop:80/a?b=c")
        .header("host", "ignored")
        .header("connection", "keep-alive, x-mine")
        .header("x-mine", "1")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("tracestate", "a=b")
        .header("upgrade", "h2c")
        .body(full(""))
        .unwrap();
    let (status, _, body) = whole(mesh.http1(80).await.send(request).await).await;
    assert_eq!(status, StatusCode::OK);
    let mut lines: Vec<_> = body.trim_end().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /a?b=c",
            "host: Server.shop:80",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate: a=b",
        ]
    );
}

#[tokio::test]
async fn http1_clients_reach_endpoints_that_speak_http2() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |request| {
        assert_eq!(request.version(), http::Version::HTTP_2);
        echo(request).await
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let request = Request::post("/a?b")
        .header("host", "server:8080")
        .body(full("body"))
        .unwrap();
    let answer = mesh.http1(8080).await.send(request).await;
    assert_eq!(answer.version(), http::Version::HTTP_11);
    let (status, _, body) = whole(answer).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, "POST http://server:8080/a?b\ncontent-length: 4\n\nbody");
}

#[tokio::test]
async fn requests_without_a_host_reach_endpoints_that_speak_http2_by_the_name_of_their_service() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let without = [
        "GET /a HTTP/1.0\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
    ];
    for request in without {
        let answer = mesh.exchange(8080, request).await;
        assert!(answer.contains(" 200 OK\r\n"), "{request}: {answer}");
        assert!(
            answer.contains("GET http://server.shop.svc.cluster.local:8080/a\n"),
            "{request}: {answer}"
        );
    }
    // An endpoint of HTTP/1 is sent an empty one as it is. Without any it gets the Service's name: HTTP/1.1 needs one.
    let answer = mesh.exchange(81, without[1]).await;
    assert!(answer.contains("GET /a\nhost: \n"), "{answer}");
    let answer = mesh.exchange(81, without[0]).await;
    assert!(
        answer.contains("GET /a\nhost: server.shop.svc.cluster.local:81\n"),
        "{answer}"
    );
    // And rules see the name.
    mesh.policy(policy(
        "orders",
        [rule("no-server", security::Action::Deny, |rule| {
            rule.hosts = vec![exact("server.shop.svc.cluster.local")];
        })],
    ));
    for request in without {
        let answer = mesh.exchange(8080, request).await;
        assert!(answer.contains(" 403 Forbidden\r\n"), "{request}: {answer}");
    }
}

#[tokio::test]
async fn head_and_empty_answers_keep_their_length_and_connection() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |request| {
        let status = match request.uri().path() {
            "/204" => StatusCode::NO_CONTENT,
            "/304" => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        };
        let body = if status == StatusCode::OK {
            full("12345")
        } else {
            full("")
        };
        Response::builder().status(status).body(body).unwrap()
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    let head = Request::head("/")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    let answer = client.send(head).await;
    assert_eq!(answer.headers()["content-length"], "5");
    assert_eq!(whole(answer).await.2, "");
    assert_eq!(client.get("/204").await.0, StatusCode::NO_CONTENT);
    assert_eq!(client.get("/304").await.0, StatusCode::NOT_MODIFIED);
    assert_eq!(client.get("/").await.2, "12345");
    // That to the application ends after HEAD: see `body_after_a_response_without_one_reaches_no_other_request`.
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn without_a_healthy_endpoint_the_answer_is_503() {
    let mesh = Mesh::new().await;
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reason, "no healthy endpoint of shop/server");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_503_and_says_so() {
    let mesh = Mesh::new().await;
    let nobody = Application::echo().await.address;
    mesh.endpoint("server-1", nobody);
    let mut client = mesh.http1(80).await;
    let (status, reason, _) = client.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reason, "upstream: connection refused");
    // The client's connection goes on.
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    assert_eq!(client.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_endpoint_that_ends_before_its_answer_is_503() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, _| {
        read_head(&mut tcp).await;
    })
    .await;
    mesh.endpoint("server-1", address);
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reason.starts_with("upstream: no response"), "{reason}");
}

#[tokio::test]
async fn too_late_is_504_and_names_the_policy() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(wire::Policy {
        timeout: millis(50),
        ..policy("orders", [])
    });
    let (status, reason, _) = mesh.http1(80).await.get("/").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(reason, "timeout: shop/orders 50ms");
    let call = Request::post("http://server/echo.Echo/Call")
        .header("content-type", "application/grpc+proto")
        .body(full(""))
        .unwrap();
    let answer = mesh.http2(8080).await.send(call).await;
    assert_eq!(answer.headers()["grpc-status"], "4");
}

/// Begins its first response and ends it as the test says; of the others only the beginning comes.
async fn begins(mesh: &Mesh) -> (Application, UnboundedSender<Frame<Bytes>>) {
    let (go, body) = channel();
    let body = std::sync::Mutex::new(Some(body));
    let application = Application::start(move |_| {
        let body = body.lock().unwrap().take().unwrap_or_else(|| {
            let (begun, body) = channel();
            begun.send(Frame::data("begun".into())).unwrap();
            tokio::spawn(async move { begun.closed().await });
            body
        });
        async move { Response::new(body) }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    (application, go)
}

/// The timeout of the Gateway API covers the whole response (GEP-1742).
#[tokio::test]
async fn response_that_has_begun_is_cut_when_its_time_is_over() {
    let per_try = |retry: &mut wire::Retry| retry.per_try_timeout = millis(300);
    let of_request = wire::Policy {
        timeout: millis(300),
        ..policy("orders", [])
    };
    for policy in [of_request, retry(per_try)] {
        let mesh = Mesh::new().await;
        let (_application, _first) = begins(&mesh).await;
        mesh.policy(policy);
        // The first response has not even a beginning of its body.
        for (number, (http2, port)) in [(false, 80), (false, 80), (true, 80), (true, 8080)]
            .into_iter()
            .enumerate()
        {
            let request = Request::get("http://server/")
                .header("host", "server")
                .body(full(""))
                .unwrap();
            let answer = match http2 {
                true => mesh.http2(port).await.send(request).await,
                false => mesh.http1(port).await.send(request).await,
            };
            assert_eq!(answer.status(), StatusCode::OK);
            let mut body = answer.into_body();
            let mut begun = Vec::new();
            let cut = loop {
                match tokio::time::timeout(WAIT, body.frame()).await.unwrap() {
                    Some(Ok(frame)) => begun.extend_from_slice(&frame.into_data().unwrap()),
                    Some(Err(error)) => break error,
                    None => panic!("a response that was cut has a clean end: {number}"),
                }
            };
            let expected: &[u8] = if number == 0 { b"" } else { b"begun" };
            assert_eq!(begun, expected, "{number}: {cut}");
        }
        mesh.counts(&["istio_requests_total", "response_flags=\"UT\""], 4)
            .await;
    }
}

#[tokio::test]
async fn response_that_ends_in_time_is_whole() {
    let mesh = Mesh::new().await;
    let (_application, go) = begins(&mesh).await;
    mesh.policy(wire::Policy {
        timeout: millis(60_000),
        ..policy("orders", [])
    });
    let mut client = mesh.http1(80).await;
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let answer = client.send(request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    go.send(Frame::data("do".into())).unwrap();
    go.send(Frame::data("ne".into())).unwrap();
    drop(go);
    assert_eq!(whole(answer).await.2, "done");
}

#[tokio::test]
async fn connect_and_foreign_upgrades_are_not_passed_on() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let answer = mesh
        .exchange(
            80,
            "CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(
        answer.contains("x-ambit-reason: CONNECT is not supported"),
        "{answer}"
    );
    assert_eq!(application.seen(), 0);
    // An upgrade that is not WebSocket's is not asked for at the endpoint: the request is one like others.
    for upgrade in ["h2c", "TLS/1.2", "foo, bar"] {
        let answer = mesh
            .exchange(
                80,
                format!(
                    "GET /a HTTP/1.1\r\nhost: server\r\nconnection: upgrade, http2-settings, close\r\n\
                     upgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
                ),
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nGET /a\nhost: server\n\n"), "{answer}");
    }
    assert_eq!(application.seen(), 3);
}

/// RFC 9110 §9.3.2: a response to HEAD has no content, whatever it is about.
#[tokio::test]
async fn head_gets_no_content_from_the_waypoint_itself() {
    let mesh = Mesh::new().await;
    let (mut one, mut two) = (mesh.http1(80).await, mesh.http2(80).await);
    let head = |uri: &str| {
        Request::head(uri)
            .header("host", "server")
            .body(full(""))
            .unwrap()
    };
    for answer in [one.send(head("/")).await, two.send(head("http://server/")).await] {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let length: usize = answer.headers()["content-length"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(length > 0);
        assert_eq!(whole(answer).await.2, "");
    }
    assert_eq!(one.get("/").await.2, "no healthy endpoint of shop/server\n");
}
