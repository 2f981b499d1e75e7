//! HTTP/1 as it is: what clients and endpoints send is what the other one gets.

use ambit_wire::security;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rules::{policy, prefix, rule};
use super::support::*;
use crate::http::HttpTimeouts;

/// An endpoint that answers every head with these bytes, and goes on with the connection.
async fn answering(answer: impl Into<Vec<u8>>) -> (Mesh, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    let answer = answer.into();
    let address = raw_application(move |mut tcp, _| {
        let (answer, heads) = (answer.clone(), heads.clone());
        async move {
            let mut head = Vec::new();
            while let Ok(byte) = tcp.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    // Not every test looks at them.
                    let _ = heads.send(std::mem::take(&mut head));
                    tcp.write_all(&answer).await.unwrap();
                }
            }
        }
    })
    .await;
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", address);
    (mesh, seen)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_response_with_both_lengths_is_passed_on_whole() {
    let both =
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (mesh, _) = answering(both).await;
    let response = mesh.exchange(80, GET).await;
    assert!(response.contains("5\r\nhello\r\n0\r\n\r\n"), "{response}");
    assert!(!response.contains("content-length"), "{response}");
    let request = Request::get("http://server/")
        .header("host", "server")
        .body(full(""))
        .unwrap();
    assert_eq!(whole(mesh.http1(80).await.send(request).await).await.2, "hello");
}

#[tokio::test]
async fn a_response_in_an_unknown_coding_is_502() {
    for coding in [
        "gzip, chunked",
        "gzip",
        "identity",
        "chunked\r\ntransfer-encoding: gzip",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let (mesh, _) = answering(answer).await;
        let response = mesh.exchange(80, GET).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{coding}: {response}");
        assert!(
            response.contains("x-ambit-reason: upstream: a response whose Transfer-Encoding"),
            "{response}"
        );
    }
}

#[tokio::test]
async fn interim_responses_are_passed_on() {
    let hints = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nx-ambit-reason: forged\r\n\r\n\
                 HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-ambit-reason: forged\r\n\r\nok";
    let (mesh, _) = answering(hints).await;
    let twice = format!("{}{GET}", GET.replace("connection: close\r\n", ""));
    let response = mesh.exchange(80, twice).await;
    let parts: Vec<_> = response.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(parts.len(), 6, "{response}");
    for (number, part) in parts.iter().enumerate() {
        let expected = [
            "102 Processing\r\n\r\n",
            "103 Early Hints\r\nlink: </a.css>\r\n\r\n",
            "200 OK\r\n",
        ];
        assert!(part.starts_with(expected[number % 3]), "{response}");
    }
    assert!(!response.contains("forged"), "{response}");
    // A client of HTTP/1.0 does not know them.
    let response = mesh.exchange(81, "GET / HTTP/1.0\r\nhost: server\r\n\r\n").await;
    assert!(
        response.contains(" 200 OK\r\n") && !response.contains(" 103 "),
        "{response}"
    );
}

#[tokio::test]
async fn interim_responses_are_passed_on_over_http2() {
    use bytes::Bytes;
    let address = raw_application(async |tcp, _| {
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let hints = http::Response::builder()
                .status(103)
                .header("link", "</a.css>")
                .body(())
                .unwrap();
            respond.send_informational(hints).unwrap();
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
        }
    })
    .await;
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", address);
    let (mut sender, connection) = h2::client::handshake(mesh.connect(8080).await).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://server/").body(()).unwrap();
    let (mut response, _) = sender.send_request(request, true).unwrap();
    let hints = tokio::time::timeout(WAIT, std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    let hints = hints.unwrap().unwrap().unwrap();
    assert_eq!(
        (hints.status().as_u16(), &hints.headers()["link"]),
        (103, &"</a.css>".parse().unwrap())
    );
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    // And to a client of HTTP/1.
    let response = mesh.exchange(8080, GET).await;
    assert!(
        response.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 "),
        "{response}"
    );
}

#[tokio::test]
async fn the_endpoint_answers_expectations() {
    let refusal = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (mesh, mut seen) = answering(refusal).await;
    let head = "PUT / HTTP/1.1\r\nHost: server\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    let response = mesh.exchange(80, head).await;
    assert!(response.starts_with("HTTP/1.1 417 "), "{response}");
    let head = String::from_utf8(seen.recv().await.unwrap()).unwrap();
    assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_response() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let application = Application::start(move |request| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            echo(request).await
        }
    })
    .await;
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", application.address);
    let mut clients = Vec::new();
    for request in [
        GET,
        "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 4\r\n\r\nbody",
    ] {
        let mut io = mesh.connect(80).await;
        io.write_all(request.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        clients.push(io);
    }
    while application.seen() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    go.send(true).unwrap();
    for (mut io, end) in clients.into_iter().zip(["\n\n", "\n\nbody"]) {
        let response = read_all(&mut io).await;
        assert!(
            response.starts_with("HTTP/1.1 200 ") && response.ends_with(end),
            "{response}"
        );
    }
    mesh.counts(&["istio_requests_total", "response_code=\"200\""], 2)
        .await;
}

#[tokio::test]
async fn a_client_that_half_closes_and_goes_away_ends_its_request() {
    let application = Application::start(async |_| std::future::pending().await).await;
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", application.address);
    let mut io = mesh.connect(80).await;
    io.write_all(GET.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    while application.seen() < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(mesh.observer.load().in_flight(), 1);
    // Now the stream is reset.
    drop(io);
    mesh.counts(&["istio_requests_total", "response_flags=\"DC\""], 1)
        .await;
}

#[tokio::test]
async fn any_target_that_servers_take_is_passed_on_as_it_came() {
    let (mesh, mut seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let long = format!("/{}", "a".repeat(60 << 10)).into_bytes();
    let mut pipelined = Vec::new();
    let targets: [&[u8]; 12] = [
        b"/q?query=up{job=\"x\"}",
        b"/a?x=<b>",
        b"/a`b",
        b"/a<b>",
        b"/\xe9",
        b"/a?x=\xe9",
        "/gr\u{fc}\u{df}e".as_bytes(),
        b"/a|b?c|d",
        b"/a^b\\c",
        b"/%zz",
        b"/a#b",
        &long,
    ];
    for target in targets {
        let request = [b"GET ", target, b" HTTP/1.1\r\nhost: server\r\n\r\n"].concat();
        pipelined.extend_from_slice(&request);
    }
    pipelined.extend_from_slice(GET.as_bytes());
    let response = mesh.exchange(80, &pipelined).await;
    assert_eq!(
        response.matches("HTTP/1.1 200 ").count(),
        targets.len() + 1,
        "{response}"
    );
    for target in targets {
        let head = seen.recv().await.unwrap();
        let line = [b"GET ", target, b" HTTP/1.1\r\n"].concat();
        assert!(head.starts_with(&line), "{}", String::from_utf8_lossy(&head));
    }
}

#[tokio::test]
async fn what_is_no_request_line_of_http_is_no_http() {
    let address = raw_application(async |mut tcp, _| {
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", address);
    for said in [
        "SET a 1\r\nGET a\r\n",
        "AUTH x\r\n",
        "OPTIONS rtsp://s/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        "OPTIONS sip:a@s SIP/2.0\r\n\r\n",
        "REQMOD icap://s/ ICAP/1.0\r\n\r\n",
        "NICK bob\r\nUSER bob 0 * :b\r\n",
    ] {
        let mut io = mesh.connect(80).await;
        io.write_all(said.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!(read_all(&mut io).await, said);
    }
}

#[tokio::test]
async fn a_rule_in_audit_changes_nothing() {
    let (mesh, mut seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    mesh.policy(policy(
        "orders",
        [rule("no-admin", security::Action::Deny, |rule| {
            rule.paths = vec![prefix("/admin")];
            rule.audit = true;
        })],
    ));
    for target in [
        "//a/../b", "/a;b", "/g%2Fp", "/%7euser", "/%zz", "/../x", "/admin",
    ] {
        let response = mesh
            .exchange(
                80,
                format!("GET {target} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"),
            )
            .await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{target}: {response}");
        let head = String::from_utf8(seen.recv().await.unwrap()).unwrap();
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
    }
    assert_eq!(mesh.metric(&["ambit_audit_total"]), 1);
}

#[tokio::test]
async fn large_heads_of_responses_pass_and_larger_ones_are_502() {
    let cookies: String = (0..300).map(|n| format!("set-cookie: c{n}=v\r\n")).collect();
    let one = format!("x-token: {}\r\n", "t".repeat(70 << 10));
    for fields in [&cookies, &one] {
        let (mesh, _) = answering(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok")).await;
        let response = mesh.exchange(80, GET).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{}", &response[..100]);
        assert!(response.contains(fields.trim_end()), "a field is missing");
    }
    let many: String = (0..1001).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(150 << 10));
    for fields in [&many, &large] {
        let (mesh, mut seen) =
            answering(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok")).await;
        let response = mesh.exchange(80, GET).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{}", &response[..100]);
        let reason =
            "x-ambit-reason: upstream: the head of the response has more than 128 KiB or 1000 fields";
        assert!(response.contains(reason), "{response}");
        // Nobody else would answer with less.
        assert!(seen.recv().await.is_some() && seen.try_recv().is_err());
    }
}

#[tokio::test]
async fn the_caller_is_named_last_and_forged_words_of_the_mesh_go() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    for port in [80, 8080] {
        let request = Request::get("http://server/forwarded")
            .header("host", "server")
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-for", "5.6.7.8")
            .header("via", "1.0 fred")
            .header(
                "x-forwarded-client-cert",
                "URI=spiffe://cluster.local/ns/shop/sa/admin",
            )
            .body(full(""))
            .unwrap();
        let (_, _, body) = whole(mesh.http1(port).await.send(request).await).await;
        assert!(
            body.contains("x-forwarded-for: 1.2.3.4, 5.6.7.8, 127.0.0.1\n"),
            "{body}"
        );
        assert!(body.contains("via: 1.0 fred, 1.1 ambit-waypoint\n"), "{body}");
        assert!(!body.contains("client-cert"), "{body}");
    }
}

#[tokio::test]
async fn names_of_fields_keep_their_case_from_http1_to_http1() {
    let answer = "HTTP/1.1 200 Fine\r\nLocation: /\r\nX-REQUEST-id: 1\r\nContent-Length: 0\r\n\r\n";
    let (mesh, mut seen) = answering(answer).await;
    let request = "GET / HTTP/1.1\r\nHost: server\r\nX-CamelCase: 1\r\nConnection: close\r\n\r\n";
    let response = mesh.exchange(80, request).await;
    assert!(response.starts_with("HTTP/1.1 200 Fine\r\n"), "{response}");
    for field in ["Location: /\r\n", "X-REQUEST-id: 1\r\n", "Content-Length: 0\r\n"] {
        assert!(response.contains(field), "{response}");
    }
    let head = String::from_utf8(seen.recv().await.unwrap()).unwrap();
    assert!(
        head.contains("Host: server\r\n") && head.contains("X-CamelCase: 1\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_content_type_makes_no_grpc_of_http1() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(policy(
        "orders",
        [rule("no-deletes", security::Action::Deny, |rule| {
            rule.methods = vec!["DELETE".into()];
        })],
    ));
    let request =
        "DELETE / HTTP/1.1\r\nhost: server\r\ncontent-type: application/grpc\r\nconnection: close\r\n\r\n";
    let response = mesh.exchange(80, request).await;
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
}

/// A call of gRPC has a deadline of its own; what only says to be one has none, and would hang for ever.
#[tokio::test]
async fn the_bodys_timeout_holds_for_http1_whatever_its_content_type() {
    let mesh = Mesh::with(HttpTimeouts {
        body: std::time::Duration::from_millis(50),
        ..HttpTimeouts::default()
    })
    .await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    for content_type in ["application/grpc", "text/plain"] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: server\r\ncontent-type: {content_type}\r\ncontent-length: 5\r\n\r\nhell"
        );
        let response = mesh.exchange(80, request).await;
        assert!(
            response.starts_with("HTTP/1.1 408 "),
            "{content_type}: {response}"
        );
    }
}

/// RFC 9110 §10.1.4: the field is for one connection, and says so.
#[tokio::test]
async fn that_a_client_takes_trailers_is_said_for_the_connection_to_the_endpoint() {
    let (mesh, mut seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for (te, expected) in [
        ("trailers", true),
        ("trailers, deflate", true),
        ("deflate", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: server\r\nte: {te}\r\nconnection: te, close\r\n\r\n");
        assert!(mesh.exchange(80, request).await.starts_with("HTTP/1.1 200 "));
        let head = String::from_utf8(seen.recv().await.unwrap()).unwrap();
        let said = head.to_ascii_lowercase();
        assert_eq!(said.contains("te: trailers\r\n"), expected, "{te}: {head}");
        assert_eq!(said.contains("connection: te\r\n"), expected, "{te}: {head}");
    }
}

/// RFC 9112 §3.2.4.
#[tokio::test]
async fn options_of_a_whole_server_goes_on_as_an_asterisk() {
    let (mesh, mut seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for (target, sent) in [
        ("http://server", "OPTIONS * HTTP/1.1"),
        ("http://server:8080", "OPTIONS * HTTP/1.1"),
        ("*", "OPTIONS * HTTP/1.1"),
        ("http://server/", "OPTIONS / HTTP/1.1"),
        ("http://server?q", "OPTIONS /?q HTTP/1.1"),
        ("/", "OPTIONS / HTTP/1.1"),
    ] {
        let request = format!("OPTIONS {target} HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
        let (head, rest) = request.split_at(11);
        let mut io = mesh.connect(80).await;
        // In two pieces as well as in one.
        io.write_all(head.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        io.write_all(rest.as_bytes()).await.unwrap();
        assert!(read_all(&mut io).await.starts_with("HTTP/1.1 200"), "{target}");
        let head = String::from_utf8(seen.recv().await.unwrap()).unwrap();
        assert!(head.starts_with(sent), "{target}: {head}");
        if let Some(host) = target.strip_prefix("http://") {
            let host = host.trim_end_matches(['/', '?', 'q']);
            assert!(head.contains(&format!("host: {host}\r\n")), "{target}: {head}");
        }
    }
    let malformed = "OPTIONS http://server HTTP/1.1\r\nhost: a/b\r\n\r\n";
    assert!(mesh.exchange(80, malformed).await.starts_with("HTTP/1.1 400"));
}
